"""Job: the questions of an evaluation before it begins, and an evaluation under way.

Knows widgets. Does not know how an evaluation runs.
"""

from functools import partial

import streamlit as st

from phi3kit.evaluation.jobs import EvaluationJob
from phi3kit.evaluation.request import EMBEDDED_QUESTIONS, EvaluationRequest
from phi3kit.ui.evaluate import evaluations
from phi3kit.ui.shared import actions, elements, job_view, resources, upload, words

_STARTED = "evaluation_job"  # in the session: the evaluation that this tab asked for


def choose_questions() -> str | None:
    """The questions: those that ship with the app, or an uploaded table. Raises StorageFailed."""
    about = (
        "embedded: questions that were left out of training, each a known subject in a known form, in three languages."
    )
    default = "upload" if upload.is_linked() else "embedded"
    kind = elements.choose_one("Questions", ["embedded", "upload"], "evaluate_kind", default=default, help=about)
    if kind == "embedded":
        return EMBEDDED_QUESTIONS
    about = "A table with a column message (or prompt) and a column expected."
    with st.container(width=420):
        file = upload.choose_upload("evaluate_file", ["csv", "tsv", "jsonl", "parquet"], about)
    return str(file) if file else None


def start(request: EvaluationRequest) -> None:
    """Start an evaluation; an error is drawn where the page shows the job."""
    begin = partial(resources.kit().evaluations.start, request, resources.actor())
    job_view.start(begin, _STARTED, "evaluation")


def latest() -> EvaluationJob | None:
    """The evaluation that the page shows."""
    return job_view.latest(resources.kit().evaluations, _STARTED)


def show_job(job: EvaluationJob | None) -> None:
    """The evaluation under way, or the error of one's own last one; redraws itself while it runs."""
    actions.show_outcome("evaluation")
    if job is not None and job.active:
        job_view.watch(resources.kit().evaluations, job.job_id, _draw, _end)
    elif job is not None and _is_own(job):
        job_view.show_early_end(job)
    job_view.show_anothers(resources.kit().evaluations, "evaluation")


def _end(job: EvaluationJob | None) -> None:
    if job is None or _is_own(job):
        st.session_state[evaluations.EVALUATED] = job.run_id if job else None


def _is_own(job: EvaluationJob) -> bool:
    return job.user == resources.actor().name


def _draw(job: EvaluationJob) -> None:
    with st.container(border=True):
        queued, at = job.state == "queued", job.progress
        state = "Queued" if queued else "Evaluating"
        st.markdown(f"**{state}** · {words.duration(job.seconds)}")
        if queued:
            st.caption(f"{job.ahead} ahead in the queue.")
        elif at is None:
            st.caption("Starting the worker")
        else:
            job_view.show_rows_done(at)
            if at.done == at.total:
                st.caption("Scoring and logging")
        job_view.cancel_button(resources.kit().evaluations, job, "cancel_evaluation")
