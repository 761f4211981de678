"""Building: a build's steps as they happen, and what it left behind.

Knows how a build is drawn, on Home and on Build. What a build does, the kit knows.
"""

import shlex

import pandas as pd
import streamlit as st

from phi3kit import snippets
from phi3kit.build_process import BuildJob, BuildRequest
from phi3kit.builds import step_names
from phi3kit.errors import Phi3KitError
from phi3kit.records import WRAPPERS, Precision, WrapperName
from phi3kit.sources import EMBEDDED, find_source
from phi3kit.ui import resources, shell, theme

BOTH_EMBEDDED = BuildRequest(WRAPPERS, EMBEDDED, "int4")

_STEP_HELP = {
    "read weights": "and the libraries that run them",
    "export": "to an ONNX graph",
    "quantize": "store the weights in fewer bits",
    "log": "to MLflow, with signature and requirements",
    "check": "plain MLflow loads it and asks a question",
    "register": "add a version to the Model Registry",
}


def start(request: BuildRequest) -> None:
    """Start a build; an error is drawn by the page's next run."""
    try:
        find_source(request.source)
        resources.kit().builds.start(request)
        st.session_state.pop("build_error", None)
    except Phi3KitError as error:
        st.session_state["build_error"] = error


def show_job() -> None:
    """The running or the last build of this app; redraws itself while it runs."""
    if error := st.session_state.pop("build_error", None):
        shell.show_error(error)
    job = resources.kit().builds.job
    if job is None:
        return
    if job.running:
        _live_job()
    else:
        _draw(job)


@st.fragment(run_every="0.5s")
def _live_job() -> None:
    job = resources.kit().builds.job
    assert job is not None
    if job.running:
        _draw(job)
    else:
        resources.forget_lists()
        st.rerun()


def _draw(job: BuildJob) -> None:
    state = "running" if job.running else "error" if job.error else "complete"
    word = {"running": "Building", "error": "The build failed", "complete": "Built"}[state]
    names = " and ".join(job.request.wrappers)
    label = f"{word}: {names} · {job.elapsed_s:,.0f} s"
    with st.status(label, state=state, expanded=job.running or bool(job.error)):  # type: ignore[arg-type]
        if job.running and not job.steps:
            st.caption("Starting the build process")
        with st.container(horizontal=True):
            for wrapper in job.request.wrappers:
                with st.container(width=330):
                    _draw_steps(job, wrapper)
        if job.running:
            st.button("Cancel", icon=":material/close:", on_click=job.cancel, key="cancel_build")
    if job.error:
        shell.show_error(job.error)


def _draw_steps(job: BuildJob, wrapper: WrapperName) -> None:
    st.markdown(theme.badge(wrapper))
    done = {step.name: step.seconds for step in job.steps if step.wrapper == wrapper}
    planned = step_names(wrapper, job.request.precision)
    for name in (*planned, *(["register"] if job.request.register else [])):
        if name not in done:
            st.markdown(f":gray[:material/circle: {name} · {_STEP_HELP[name]}]")
        elif done[name] is None:
            mark = ":material/error:" if not job.running else ":material/progress_activity:"
            st.markdown(f":primary[{mark} **{name}** · {_STEP_HELP[name]}]")
        else:
            st.markdown(f":green[:material/check_circle:] {name} · {done[name]:.1f} s")


def show_built(built: dict[str, object]) -> None:
    """A built wrapper: where it is, what it takes, what was logged, and the same build as code."""
    shared = resources.kit()
    wrapper: WrapperName = built["wrapper"]  # type: ignore[assignment]
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**Logged model** {theme.badge(wrapper)}", width="content")
            st.caption(
                f"{shell.megabytes(float(str(built['size_bytes'])))} · {built['precision']} · built in {built['seconds']} s",
                width="content",
            )
        st.code(str(built["model_uri"]), language=None)
        if built.get("registered"):
            st.caption(f"Registered as {built['registered']}")
        st.caption(f"Asked for the capital of Spain by plain MLflow, it answered: “{built['check_answer']}”")
        overview, files, code = st.tabs(["Signature", "Artifacts", "The same build as code"])
        with overview:
            st.code(
                f"inputs:\n  {built['signature_inputs']}\noutputs:\n  {built['signature_outputs']}\nparams:\n  None",
                language=None,
                wrap_lines=True,
            )
        with files:
            found = resources.files(str(built["model_uri"]))
            table = pd.DataFrame(found, columns=["file", "bytes"])
            st.dataframe(
                table, hide_index=True, column_config={"bytes": st.column_config.NumberColumn(format="localized")}
            )
        with code:
            source = find_source(str(built["source"]))
            request = BuildRequest((wrapper,), source.name, _export_precision(built))
            st.code(f"python -m phi3kit {shlex.join(request.command())}", language="bash")
            st.code(snippets.build_code(wrapper, source, request.precision, shared.settings))
            if wrapper == "onnx":
                st.caption("onnx_wrapper.py, the wrapper itself:")
                st.code(snippets.onnx_wrapper_code())


def _export_precision(built: dict[str, object]) -> Precision:
    return built["precision"] if built["wrapper"] == "onnx" else "int4"  # type: ignore[return-value]
