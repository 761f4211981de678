"""Azure bundle: its size first, then the zip, the command that makes the same, and its files.

Knows how it is drawn. Does not know what is bundled.
"""

import shlex
from functools import partial
from io import BytesIO
from pathlib import Path

import streamlit as st

from phi3kit.access.actor import Actor
from phi3kit.core.errors import Phi3KitError
from phi3kit.core.profiles import Role
from phi3kit.deployment import azure, recipes
from phi3kit.deployment.azure import Bundle
from phi3kit.tracking.registry import ModelChoice
from phi3kit.ui.shared import elements, resources, theme, words
from phi3kit.ui.shared.literal import literal

_THROUGH_MEMORY_BYTES = 200_000_000  # Streamlit keeps a download in memory: a bigger zip is written to a file
_FILES = ("deployment.yml", "endpoint.yml", "score/score.py", "environment/conda.yaml", "deploy.sh", "README.md")
_LANGUAGES = {".yml": "yaml", ".yaml": "yaml", ".py": "python", ".md": "markdown"}


@st.cache_data(ttl=60, max_entries=20, show_spinner="Reading the logged model")
def _planned(model_uri: str, home: str, role: Role) -> Bundle | Phi3KitError:
    try:
        return azure.plan_bundle(model_uri, Actor("", role), resources.settings())
    except Phi3KitError as error:
        return error


def show_bundle(choice: ModelChoice) -> None:
    """The bundle of one model. Raises ModelNotFound, NotAllowed or StorageFailed."""
    settings = resources.settings()
    bundle = resources.unwrap(_planned(choice.model.model_uri, str(settings.home), resources.actor().role))
    with st.container(border=True):
        st.markdown(
            "**Azure ML**  \nOne zip: the model saved for Azure, a scoring script, the endpoint and deployment, the `az` commands, "
            "and a script that does the same with `azure-ai-ml`."
        )
        elements.show_metrics(
            {"Model": words.size(bundle.model_bytes), "Instance type": bundle.instance_type, "Endpoint": bundle.name}
        )
        _show_zip(bundle)
        st.markdown("From the command line")
        command = shlex.join(["python", "-m", "phi3kit", "azure", choice.plain_uri, "-o", f"{bundle.name}.zip"])
        st.code(f"{recipes.shell(settings).command}\n{command}", language=None, wrap_lines=True)
        for path, tab in zip(_FILES, st.tabs(list(_FILES)), strict=True):
            with tab:
                elements.scrolled_code(bundle.text(path), 320, _LANGUAGES.get(Path(path).suffix))
        st.caption(
            "Azure takes the unzipped folder as it is. Our tests read its files with azure-ai-ml's own loader and run its "
            "script with Azure's request format. We have not deployed it to Azure."
        )


def _show_zip(bundle: Bundle) -> None:
    if bundle.model_bytes <= _THROUGH_MEMORY_BYTES:
        st.download_button(
            theme.on_primary("Download the zip"),
            partial(_zip, bundle),
            file_name=f"{bundle.name}.zip",
            mime="application/zip",
            type="primary",
            icon=":material/download:",
            on_click="ignore",
        )
        return
    whole = words.size(bundle.model_bytes)
    file = resources.settings().home / "bundles" / f"{bundle.name}.zip"
    st.caption(f"A zip of {whole} is too big for a browser download, so it is written to a file.")
    if st.button(theme.on_primary("Write the zip"), type="primary", icon=":material/folder_zip:"):
        bar, drawn = st.progress(0.0), 0.0

        def on_progress(done: int) -> None:
            nonlocal drawn
            if done / bundle.model_bytes - drawn >= 0.01 or done == bundle.model_bytes:
                drawn = done / bundle.model_bytes
                bar.progress(drawn, text=f"{words.size(done)} of {whole}")

        azure.save_bundle(bundle, file, on_progress)
    if file.is_file():
        st.success(
            f"{words.size(file.stat().st_size)} in {literal(str(file), inside=True)}", icon=":material/folder_zip:"
        )


def _zip(bundle: Bundle) -> BytesIO:
    target = BytesIO()
    azure.write_bundle(bundle, target)
    target.seek(0)
    return target
