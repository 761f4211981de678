"""Job: a build's steps as they happen, and the builds before it; drawn on Build, Home and Tour.

Knows how they are drawn. Does not know how a build runs.
"""

import time
from functools import partial
from typing import Any

import streamlit as st

from phi3kit.core.records import WRAPPERS, WrapperName
from phi3kit.packaging.events import BuildRequest, StepProgress, step_names
from phi3kit.packaging.jobs import BuildJob
from phi3kit.packaging.sources.find import EMBEDDED, lies_on_the_hub
from phi3kit.ui.shared import actions, job_view, resources, theme, words
from phi3kit.ui.shared.literal import literal

BOTH_EMBEDDED = BuildRequest(WRAPPERS, EMBEDDED, "int4")

_STEP_HELP = {
    "download": "files that are not on this machine yet",
    "prepare": "load the libraries",
    "read weights": "and load the libraries that run them",
    "export": "to an ONNX graph",
    "quantize": "store the weights in fewer bits",
    "log": "to MLflow, with signature and requirements",
    "check": "plain MLflow loads it and asks a question",
    "compare": "50 prompts, compared with the source model",
    "register": "add a version to the Model Registry",
}
_STATES = {
    "queued": "Queued",
    "running": "Building",
    "done": "Built",
    "failed": "The build failed",
    "cancelled": "The build was stopped",
}
_MARKS = {"cancelled": ":material/stop_circle:", "failed": ":material/error:"}  # of a step that did not end
_STARTED = "build_job"  # in the session: the build that this tab asked for
_RECENT_S = 600  # a build that ended longer ago is history


def start(request: BuildRequest, accept_tight: bool = False) -> None:
    """Start a build, unless the same one is under way; an error is drawn where the page shows the job."""
    if same := same_under_way(request):
        st.session_state[_STARTED] = same.job_id
        return
    begin = partial(resources.kit().builds.start, request, resources.actor(), accept_tight=accept_tight)
    job_view.start(begin, _STARTED, "build")


def same_under_way(request: BuildRequest) -> BuildJob | None:
    """One's own build of the same request, queued or running."""
    user = resources.actor().name
    jobs = resources.kit().builds.all()
    return next((job for job in jobs if job.active and job.user == user and job.request == request), None)


def latest() -> BuildJob | None:
    """The build that pages show."""
    return job_view.latest(resources.kit().builds, _STARTED)


def recent() -> BuildJob | None:
    """The build under way, or one that ended a moment ago."""
    job = latest()
    over = job is not None and not job.active and time.time() - job.began_at - job.seconds > _RECENT_S
    return None if over else job


def under_way() -> bool:
    """Whether a build is, anybody's."""
    return any(job.active for job in resources.kit().builds.all())


def show_job(job: BuildJob | None) -> None:
    """A build, or why none began; redraws itself while it runs."""
    actions.show_outcome("build")
    if job is not None and job.active:
        job_view.watch(resources.kit().builds, job.job_id, _draw, lambda ended: resources.forget_plans())
    elif job is not None:
        _draw(job)
    job_view.show_anothers(resources.kit().builds, "build")


def _draw(job: BuildJob) -> None:
    state = "running" if job.active else "complete" if job.state == "done" else "error"
    wrappers = " and ".join(job.request.wrappers)
    label = f"{_STATES[job.state]}: {wrappers} from {words.source_label(job.request.source)} · {job.seconds:,.0f} s"
    if job.state == "cancelled":
        place = st.expander(label, icon=":material/stop_circle:", expanded=True).container()
    else:  # the status's own with block would set it to complete at the end, running or not
        place = st.status(label, state=state, expanded=state != "complete").container()  # type: ignore[arg-type]
    with place:
        if job.state == "queued":
            st.caption(f"{job.ahead} ahead in the queue.")
        elif job.active and not job.steps:
            st.caption("Starting the build process")
        if at := job.progress:
            st.progress(min(1.0, at.done / at.total) if at.total else 1.0, text=f"{at.step} · {_how_far(at)}")
        with st.container(horizontal=True):
            for wrapper in job.request.in_order:
                with st.container(width=330):
                    _draw_steps(job, wrapper)
        for note in job.notes:
            st.caption(f":material/info: {literal(note.text, inside=True)}")
        if job.active:
            job_view.cancel_button(resources.kit().builds, job, "cancel_build")
    job_view.show_early_end(job)


def _how_far(at: StepProgress) -> str:
    text = f"{at.done} of {at.total} {at.unit}"
    if at.unit == "bytes":
        text = f"{words.size(at.done)} of {words.size(at.total)} · {words.size(at.per_s)}/s"
    return text + (f" · {words.duration(at.seconds_left)} left" if at.seconds_left is not None else "")


def _draw_steps(job: BuildJob, wrapper: WrapperName) -> None:
    st.markdown(theme.badge(wrapper))
    begun = {step.step: step.seconds for step in job.steps if step.wrapper == wrapper}
    for name in [*begun, *(name for name in _planned_steps(job, wrapper) if name not in begun)]:
        if name not in begun:
            st.markdown(f":gray[:material/circle: {name} · {_STEP_HELP[name]}]")
        elif begun[name] is None:
            mark = _MARKS.get(job.state, ":material/progress_activity:")
            st.markdown(f":primary[{mark} **{name}** · {_STEP_HELP[name]}]")
        else:
            st.markdown(f":green[:material/check_circle:] {name} · {begun[name]:.1f} s")


def _planned_steps(job: BuildJob, wrapper: WrapperName) -> list[str]:
    if not job.active:
        return []
    logged = any(step.step == "log" and step.wrapper == "onnx" for step in job.steps)
    exported = logged and not any(step.step == "export" for step in job.steps)
    return step_names(job.request, wrapper, hub=lies_on_the_hub(job.request.source), exported=exported)


def show_history(jobs: list[BuildJob]) -> None:
    """Every known build, and the chosen one's error and log."""

    def columns(job: BuildJob) -> dict[str, Any]:
        return {
            "source": words.source_label(job.request.source),
            "wrappers": " and ".join(job.request.wrappers),
            "precision": job.request.precision,
        }

    def more(job: BuildJob) -> None:
        if job.error or job.state == "cancelled":
            st.caption(literal(str(job.error or job_view.stopped(job))))

    job_view.show_history("Builds", resources.kit().builds, jobs, columns, more)
