"""Deploying: a recipe's commands and files, the local scoring server, and the Azure bundle, as cards.

Knows widgets. What is served and bundled, the deployment modules know.
"""

import json
import shlex
import time
from functools import partial
from io import BytesIO
from pathlib import Path

import streamlit as st

from phi3kit.access.actor import Actor
from phi3kit.core.errors import Phi3KitError
from phi3kit.core.processes import log_tail
from phi3kit.core.profiles import Role
from phi3kit.deployment import azure, recipes, servers
from phi3kit.deployment.azure import Bundle
from phi3kit.deployment.recipes import Recipe
from phi3kit.deployment.servers import ServerStatus
from phi3kit.tracking.registry import ModelChoice
from phi3kit.ui.shared import actions, permissions, resources, shell, theme

_LOG_LINES = 30
_THROUGH_MEMORY_BYTES = 200_000_000  # Streamlit keeps a download in memory: a bigger zip is written to a file
_NEEDS = {"docker": "needs Docker", "root": "needs root"}


def suggested_port(wanted: int) -> int:
    """A free port, which stays suggested for the session, also while a server of ours listens on it."""
    key = f"suggested_port_{wanted}"
    if key not in st.session_state:
        st.session_state[key] = servers.first_free_port(wanted)
    return int(st.session_state[key])


def show_recipe(recipe: Recipe) -> None:
    """Commands in order, files with their download, notes."""
    with st.container(border=True):
        st.markdown(f"**{recipe.title}**  \n{recipe.sentence}")
        for number, step in enumerate(recipe.steps, start=1):
            needs = f" :gray-badge[{_NEEDS[step.needs]}]" if step.needs else ""
            st.markdown(f"{number}. {step.what}{needs}")
            st.code(step.command, language="bash", wrap_lines=True)
        for file in recipe.files:
            with st.expander(shell.plain(file.name), icon=":material/description:", expanded=len(recipe.files) == 1):
                st.download_button(
                    "Download",
                    file.text,
                    file_name=file.name,
                    mime="text/plain",
                    icon=":material/download:",
                    on_click="ignore",
                    key=f"file_{file.name}",
                )
                st.code(file.text, language=file.syntax if file.syntax != "text" else None)
        for note in recipe.notes:
            st.caption(note)


def show_server(choice: ModelChoice, port: int) -> None:
    """Start and stop `mlflow models serve` here, and ask it."""
    status = _server_of(choice)
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.markdown("**Try it here**  \nStart the same command as a process of this app.", width="content")
            if status:
                stop = partial(resources.kit().servers.stop, choice.model.model_uri, resources.actor())
                st.button(
                    "Stop", icon=":material/stop_circle:", on_click=actions.attempt, args=(stop, "Stopped"), key="stop",
                    disabled=not permissions.may("serve"),
                )  # fmt: skip
            else:
                start = partial(resources.kit().servers.start, choice.model_uri, resources.actor(), port)
                st.button(
                    "Start",
                    type="primary",
                    icon=":material/play_arrow:",
                    on_click=actions.attempt,
                    args=(start, f"Starting on port {port}"),
                    key="start",
                    disabled=not permissions.may("serve"),
                )
        if status and status.state == "starting":
            _starting_server(choice)
        elif status:
            _draw(status)
            if status.state == "ready":
                _show_call(status)


@st.fragment(run_every="1s")
def _starting_server(choice: ModelChoice) -> None:
    """The server until it is ready or has ended; then the page is drawn anew, without a timer."""
    status = _server_of(choice)
    if status and status.state == "starting":
        _draw(status)
    else:
        st.rerun()


def _draw(status: ServerStatus) -> None:
    badge = theme.badge(status.wrapper)
    st.markdown(f"{badge} {shell.state(status.state)} · {status.url}")
    if status.state == "ended":
        st.error(
            f"**The server ended** with exit code {status.exit_code}. Its log says why.\n\n"
            "Stop it and start it again, on another port if that one is taken.",
            icon=":material/error:",
        )
    elif status.state == "starting":
        st.caption(f"MLflow loads the model · {shell.duration(time.time() - status.started_at)}")
    with st.expander("Log", expanded=status.state == "ended"):
        st.code("\n".join(log_tail(status.log_file, _LOG_LINES)) or "Nothing yet.", language=None, height=200)


def _show_call(status: ServerStatus) -> None:
    native = json.dumps(recipes.native_input(status.wrapper), ensure_ascii=False, indent=2)
    body = st.text_area("Request", native, height=180, key=f"call_{status.wrapper}")
    if st.button("Send", icon=":material/send:", key="send_call"):
        with shell.errors_shown(), st.spinner("Waiting for the answer"):
            reply = servers.ask(status, body or "")
            mark = ":green-badge" if reply.status == 200 else ":red-badge"
            st.markdown(f"{mark}[{reply.status}] {shell.seconds(reply.seconds)}")
            try:
                st.json(json.loads(reply.text))
            except ValueError:
                st.code(reply.text, language=None)


def _server_of(choice: ModelChoice) -> ServerStatus | None:
    found = (each for each in resources.kit().servers.statuses() if each.model_uri == choice.model.model_uri)
    return next(found, None)


@st.cache_data(ttl=60, max_entries=20, show_spinner="Reading the logged model")
def _planned(model_uri: str, home: str, role: Role) -> Bundle | Phi3KitError:
    try:
        return azure.plan_bundle(model_uri, Actor("", role), resources.settings())
    except Phi3KitError as error:
        return error


def show_azure(choice: ModelChoice) -> None:
    """The bundle: its size first, then its files, and the zip."""
    settings = resources.settings()
    bundle = _planned(choice.model.model_uri, str(settings.home), resources.actor().role)
    if isinstance(bundle, Phi3KitError):
        raise bundle
    with st.container(border=True):
        st.markdown(
            "**Azure ML**  \nOne zip: the model saved for Azure, a scoring script, endpoint and deployment, the `az` commands, "
            "and the same with `azure-ai-ml`."
        )
        with st.container(horizontal=True):
            st.metric("Model", shell.size(bundle.model_bytes), border=True)
            st.metric("Machine", bundle.instance_type, border=True)
            st.metric("Endpoint", bundle.name, border=True)
        _show_zip(bundle)
        st.markdown("The same from the command line")
        command = shlex.join(["python", "-m", "phi3kit", "azure", choice.model_uri, "-o", f"{bundle.name}.zip"])
        st.code(f"{recipes.shell(settings).command}\n{command}", language="bash", wrap_lines=True)
        shown = ("deployment.yml", "endpoint.yml", "score/score.py", "environment/conda.yaml", "deploy.sh", "README.md")
        for path, tab in zip(shown, st.tabs(list(shown)), strict=True):
            with tab:
                st.code(bundle.text(path), language=_language(path), height=320)
        st.caption(
            "Azure takes the whole zip's folder as it is. Its files were read by azure-ai-ml's own loader and its script was "
            "run with Azure's request format in our tests; nothing was deployed to Azure by us."
        )


def _show_zip(bundle: Bundle) -> None:
    if bundle.model_bytes <= _THROUGH_MEMORY_BYTES:
        st.download_button(
            "Download the zip",
            partial(_zip, bundle),
            file_name=f"{bundle.name}.zip",
            mime="application/zip",
            type="primary",
            icon=":material/download:",
            on_click="ignore",
        )
        return
    file = resources.settings().home / "bundles" / f"{bundle.name}.zip"
    st.caption(
        f"A zip of {shell.size(bundle.model_bytes)} is too big for the browser's download: it is written to a file."
    )
    if st.button("Write the zip", type="primary", icon=":material/folder_zip:"):
        place = st.progress(0.0)
        drawn = 0.0

        def on_progress(done: int) -> None:
            nonlocal drawn
            if done / bundle.model_bytes - drawn >= 0.01 or done == bundle.model_bytes:
                drawn = done / bundle.model_bytes
                place.progress(drawn, text=f"{shell.size(done)} of {shell.size(bundle.model_bytes)}")

        azure.save_bundle(bundle, file, on_progress)
    if file.is_file():
        st.success(f"{shell.size(file.stat().st_size)} in {shell.plain(str(file))}", icon=":material/folder_zip:")


def _zip(bundle: Bundle) -> BytesIO:
    target = BytesIO()
    azure.write_bundle(bundle, target)
    target.seek(0)
    return target


def _language(path: str) -> str | None:
    return {".yml": "yaml", ".yaml": "yaml", ".py": "python", ".sh": "bash", ".md": "markdown"}.get(Path(path).suffix)
