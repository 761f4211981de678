"""Result: a wrapper that was built, and every logged model in a table.

Knows how they are drawn, and the build's own report of what it built.
"""

import shlex
from typing import Any

import streamlit as st

from phi3kit.core.records import PRECISIONS
from phi3kit.packaging import snippets
from phi3kit.packaging.events import BuildRequest
from phi3kit.tracking.logged_models import LoggedModel
from phi3kit.ui.shared import elements, resources, theme, words
from phi3kit.ui.shared.literal import literal


def show_built(built: dict[str, Any]) -> None:
    """A built wrapper: where it is, what it takes, what was logged, and the same build as code."""
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**Logged model** {theme.badge(built['wrapper'])}", width="content")
            st.caption(
                f"{words.size(built['size_bytes'])} · {built['precision']} · built in {built['seconds']} s",
                width="content",
            )
        st.code(built["model_uri"], language=None, wrap_lines=True)
        if built.get("registered"):
            st.caption(f"Registered as {literal(built['registered'], inside=True)}")
        st.caption(
            f"Plain MLflow asked it for the capital of Spain. It answered: “{literal(built['check_answer'], inside=True)}”"
        )
        if same := built.get("same_beginnings"):
            st.caption(
                f"{same} prompts give the same first 20 tokens (greedy) in the {built['precision']} export and in its source."
            )
        if built.get("commit"):
            st.caption(literal(f"Commit {built['commit']} · license {built.get('license') or 'unknown'}"))
        signature, files, code = st.tabs(["Signature", "Artifacts", "The same build as code"])
        with signature:
            elements.show_signature(built["model_uri"])
        with files:
            elements.show_files(built["model_uri"])
        with code:
            _show_code(built)


def _show_code(built: dict[str, Any]) -> None:
    wrapper, source, precision = built["wrapper"], built["source"], built["precision"]
    request = BuildRequest((wrapper,), source, precision if precision in PRECISIONS else "int4")
    st.code(f"python -m phi3kit {shlex.join(request.command())}", language=None, wrap_lines=True)
    st.code(snippets.build_code(wrapper, source, built["commit"], precision, resources.settings()), wrap_lines=True)
    if wrapper == "onnx":
        st.caption("onnx_wrapper.py, the wrapper itself:")
        st.code(snippets.onnx_wrapper_code(), wrap_lines=True)


def show_models(models: list[LoggedModel]) -> None:
    """Every logged model in a table."""
    with st.container(border=True):
        st.markdown("**Logged models**")
        rows = [
            {
                "wrapper": model.wrapper,
                "source": words.source_label(model.source),
                "precision": model.precision,
                "built": model.created_at,
                "model_uri": model.model_uri,
            }
            for model in models
        ]
        st.dataframe(rows, hide_index=True, column_config={"built": elements.DATE}, alt="Logged models, newest first")
