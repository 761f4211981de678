"""Building: a build's steps as they happen, and what it left behind.

Knows how a build is drawn, on Home and on Build. What a build does, the kit knows.
"""

import shlex
import time

import pandas as pd
import streamlit as st

from phi3kit.core.errors import Phi3KitError
from phi3kit.core.records import PRECISIONS, WRAPPERS, WrapperName
from phi3kit.packaging import snippets
from phi3kit.packaging.events import BuildRequest, StepProgress, step_names
from phi3kit.packaging.jobs import BuildJob
from phi3kit.packaging.plan import Plan
from phi3kit.packaging.sources.find import EMBEDDED, Source, lies_on_the_hub
from phi3kit.ui.shared import resources, shell, theme
from phi3kit.ui.shared.row_choice import DATE, choose_row

BOTH_EMBEDDED = BuildRequest(WRAPPERS, EMBEDDED, "int4")

_STEP_HELP = {
    "download": "what is not on this machine yet",
    "prepare": "load the libraries",
    "read weights": "and the libraries that run them",
    "export": "to an ONNX graph",
    "quantize": "store the weights in fewer bits",
    "log": "to MLflow, with signature and requirements",
    "check": "plain MLflow loads it and asks a question",
    "compare": "50 prompts, against the source's own words",
    "register": "add a version to the Model Registry",
}
_STATE_WORDS = {
    "queued": "Waiting to build",
    "running": "Building",
    "done": "Built",
    "failed": "The build failed",
    "cancelled": "The build was cancelled",
}
_SIGNATURE_HEIGHT = 230  # pixels; the chat signature is long and scrolls
_RECENT_S = 600  # a build that ended so long ago is history


def start(request: BuildRequest, accept_tight: bool = False) -> None:
    """Start a build; an error is drawn by the page's next run."""
    try:
        resources.kit().builds.start(request, resources.actor(), accept_tight=accept_tight)
        st.session_state.pop("build_error", None)
    except Phi3KitError as error:
        st.session_state["build_error"] = error


def recent_job() -> BuildJob | None:
    """The build under way, or one that ended a moment ago."""
    job = resources.kit().builds.latest()
    over = job is not None and not job.active and time.time() - job.began_at - job.seconds > _RECENT_S
    return None if over else job


def show_job(job: BuildJob | None) -> None:
    """A build; redraws itself while it runs."""
    if error := st.session_state.pop("build_error", None):
        shell.show_error(error)
    if job is not None and job.active:
        _live_job()
    elif job is not None:
        _draw(job)


@st.fragment(run_every="0.5s")
def _live_job() -> None:
    job = resources.kit().builds.latest()
    if job is not None and job.active:
        _draw(job)
    else:
        resources.forget_lists()
        resources.forget_plans()
        st.rerun()


def _draw(job: BuildJob) -> None:
    state = "running" if job.active else "complete" if job.state == "done" else "error"
    names = " and ".join(job.request.wrappers)
    label = f"{_STATE_WORDS[job.state]}: {names} from {shell.source_label(job.request.source)} · {job.seconds:,.0f} s"
    # Its own with block would set it to complete at the end, running or not.
    with st.status(label, state=state, expanded=state != "complete").container():  # type: ignore[arg-type]
        if job.state == "queued":
            st.caption(f"One build takes most of the machine: {job.ahead} before this one.")
        elif job.active and not job.steps:
            st.caption("Starting the build process")
        if at := job.progress:
            st.progress(min(1.0, at.done / at.total) if at.total else 1.0, text=f"{at.step} · {_progress_words(at)}")
        with st.container(horizontal=True):
            for wrapper in job.request.in_order:
                with st.container(width=330):
                    _draw_steps(job, wrapper)
        for note in job.notes:
            st.caption(f":material/info: {shell.plain(note.text)}")
        if job.active:
            st.button(
                "Cancel",
                icon=":material/close:",
                on_click=resources.kit().builds.cancel,
                args=(job, resources.actor()),
                disabled=not job.belongs_to(resources.actor()),
                key="cancel_build",
            )
    if job.error:
        shell.show_error(job.error)


def _progress_words(at: StepProgress) -> str:
    words = f"{at.done} of {at.total} {at.unit}"
    if at.unit == "bytes":
        words = f"{shell.size(at.done)} of {shell.size(at.total)} · {shell.size(at.per_s)}/s"
    return words + (f" · {shell.duration(at.seconds_left)} left" if at.seconds_left is not None else "")


def _draw_steps(job: BuildJob, wrapper: WrapperName) -> None:
    st.markdown(theme.badge(wrapper))
    done = {step.step: step.seconds for step in job.steps if step.wrapper == wrapper}
    planned = [*done, *(name for name in _planned_steps(job, wrapper) if name not in done)]
    for name in planned:
        if name not in done:
            st.markdown(f":gray[:material/circle: {name} · {_STEP_HELP[name]}]")
        elif done[name] is None:
            mark = ":material/error:" if not job.active else ":material/progress_activity:"
            st.markdown(f":primary[{mark} **{name}** · {_STEP_HELP[name]}]")
        else:
            st.markdown(f":green[:material/check_circle:] {name} · {done[name]:.1f} s")


def _planned_steps(job: BuildJob, wrapper: WrapperName) -> list[str]:
    exported = any(step.step == "log" and step.wrapper == "onnx" for step in job.steps) and not any(
        step.step == "export" for step in job.steps
    )
    planned = step_names(job.request, wrapper, hub=lies_on_the_hub(job.request.source), exported=exported)
    return planned if job.active else []


def show_plan(source: Source, plan: Plan) -> None:
    """What a build will need, before anything is downloaded or written."""
    shape = source.shape
    parts = [f"{shape.layers} layers", f"hidden size {shape.hidden_size:,}", f"context {shape.context_tokens:,} tokens"]
    parts += [shape.dtype or "ONNX", f"{shell.size(source.files.size_bytes)} of files"]
    if source.commit:
        parts.append(f"commit {source.commit[:12]}")
    if source.license:
        parts.append(f"license {source.license}")
    st.caption(shell.plain(" · ".join(parts)))
    if source.snapshot:
        st.caption(f"[Model card]({source.snapshot.card_url})")
    word = {"fits": "Fits on this machine", "tight": "A tight fit", "too much": "Does not fit on this machine"}
    mark = {"fits": ":green[:material/check_circle:]", "tight": ":orange[:material/warning:]"}.get(
        plan.verdict, ":red[:material/error:]"
    )
    download = f" · {shell.size(plan.download_bytes)} to download" if plan.download_bytes else ""
    label = f"{mark} {word[plan.verdict]} · about {shell.duration(plan.seconds)}{download}"
    with st.expander(label, expanded=plan.verdict != "fits" or source.name != EMBEDDED):
        st.dataframe(
            [
                {
                    "what": need.what,
                    "needed": shell.size(need.needed),
                    "free": shell.size(need.available) if need.available is not None else "no limit",
                    "verdict": need.verdict,
                    "how it comes about": need.how,
                }
                for need in plan.needs
            ],
            hide_index=True,
        )
        memory = " and ".join(f"{shell.size(size)} in the {wrapper} worker" for wrapper, size in plan.kv_bytes.items())
        st.caption(f"Each conversation takes memory of its own: one that fills the context {memory}.")


def show_history(jobs: list[BuildJob]) -> None:
    """Every build that is known, and the chosen one's log."""
    rows = [
        {
            "began": pd.Timestamp(job.began_at, unit="s", tz="UTC").tz_convert(shell.timezone()),
            "source": shell.source_label(job.request.source),
            "wrappers": " and ".join(job.request.wrappers),
            "precision": job.request.precision,
            "state": job.state,
            "duration": shell.duration(job.seconds),
        }
        for job in jobs
    ]
    with st.expander(f"Builds · {len(jobs)}"):
        chosen = choose_row(rows, "builds", "Builds", {"began": DATE})
        if chosen is not None:
            job = jobs[chosen]
            if job.error:
                st.caption(shell.plain(str(job.error)))
            st.code(job.log() or "The libraries printed nothing.", language=None, height=300)
        else:
            st.caption("Choose a row to read what the libraries printed.")


def show_built(built: dict[str, object]) -> None:
    """A built wrapper: where it is, what it takes, what was logged, and the same build as code."""
    wrapper: WrapperName = built["wrapper"]  # type: ignore[assignment]
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**Logged model** {theme.badge(wrapper)}", width="content")
            st.caption(
                f"{shell.size(float(str(built['size_bytes'])))} · {built['precision']} · built in {built['seconds']} s",
                width="content",
            )
        st.code(str(built["model_uri"]), language=None)
        if built.get("registered"):
            st.caption(f"Registered as {built['registered']}")
        st.caption(
            f"Asked for the capital of Spain by plain MLflow, it answered: “{shell.plain(str(built['check_answer']))}”"
        )
        if same := built.get("same_beginnings"):
            st.caption(
                f"{same} prompts get the same first 20 tokens, greedy, from the {built['precision']} export as from its source."
            )
        if built.get("commit"):
            st.caption(f"Commit {built['commit']} · license {built.get('license') or 'not named'}")
        overview, files, code = st.tabs(["Signature", "Artifacts", "The same build as code"])
        with overview:
            st.code(
                f"inputs:\n  {built['signature_inputs']}\noutputs:\n  {built['signature_outputs']}\nparams:\n  None",
                language=None,
                wrap_lines=True,
                height=_SIGNATURE_HEIGHT if wrapper == "transformers" else "content",
            )
        with files:
            found = resources.files(str(built["model_uri"]))
            table = pd.DataFrame(found, columns=["file", "bytes"])
            st.dataframe(
                table, hide_index=True, column_config={"bytes": st.column_config.NumberColumn(format="localized")}
            )
        with code:
            source, commit, precision = str(built["source"]), built["commit"], str(built["precision"])
            request = BuildRequest((wrapper,), source, precision if precision in PRECISIONS else "int4")  # type: ignore[arg-type]
            st.code(f"python -m phi3kit {shlex.join(request.command())}", language="bash")
            st.code(snippets.build_code(wrapper, source, commit, precision, resources.settings()))  # type: ignore[arg-type]
            if wrapper == "onnx":
                st.caption("onnx_wrapper.py, the wrapper itself:")
                st.code(snippets.onnx_wrapper_code())
