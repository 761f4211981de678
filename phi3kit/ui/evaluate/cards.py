"""Evaluating: an evaluation under way, those that were logged, and two of them question by question.

Knows how these are drawn. What is scored, the kit knows.
"""

from typing import Literal

import pandas as pd
import streamlit as st

from phi3kit.batch.jobs import keep_upload
from phi3kit.core.errors import Phi3KitError
from phi3kit.evaluation import results
from phi3kit.evaluation.jobs import EvaluationJob
from phi3kit.evaluation.promote import promote
from phi3kit.evaluation.request import EMBEDDED_QUESTIONS, EvaluationRequest
from phi3kit.evaluation.results import Evaluation
from phi3kit.ui.batch import cards
from phi3kit.ui.shared import permissions, resources, shell, theme

_LOOK_EVERY = "0.5s"
_STATE_WORDS = {
    "queued": "Waiting for the evaluation before it",
    "running": "Evaluating",
    "done": "Evaluated",
    "failed": "The evaluation failed",
    "cancelled": "The evaluation was cancelled",
}
_VIEWS = ("differ", "A better", "B better", "both wrong", "all")
_PERCENT = st.column_config.NumberColumn(format="percent")


def choose_questions() -> str | None:
    """The questions: those that ship with the app, or an uploaded table. Raises StorageFailed."""
    kind = st.segmented_control(
        "Questions", ["embedded", "upload"], default="embedded", required=True, key="evaluate_kind",
        help="embedded: phrasings that were withheld from the small model's training, in three languages.",
    )  # fmt: skip
    if kind == "embedded":
        return EMBEDDED_QUESTIONS
    with st.container(width=420):
        given = st.file_uploader(
            "File", type=["csv", "tsv", "jsonl", "parquet"], key="evaluate_file",
            help="A table with a column message (or prompt) and a column expected.",
        )  # fmt: skip
    return str(keep_upload(given.name, given.getvalue(), resources.settings())) if given else None


def start(request: EvaluationRequest) -> None:
    """Start an evaluation; an error is drawn by the page's next run."""
    try:
        resources.kit().evaluations.start(request, resources.actor())
        st.session_state.pop("evaluate_error", None)
    except Phi3KitError as error:
        st.session_state["evaluate_error"] = error


def show_job(job: EvaluationJob | None) -> None:
    """The evaluation under way, or the error of the last one; redraws itself while it runs."""
    if error := st.session_state.pop("evaluate_error", None):
        shell.show_error(error)
    if job is None:
        return
    if job.active:
        _live_job()
    elif job.error and job.state == "failed":
        shell.show_error(job.error)


@st.fragment(run_every=_LOOK_EVERY)
def _live_job() -> None:
    job = resources.kit().evaluations.latest()
    if job is None or not job.active:
        st.session_state["evaluated"] = job.run_id if job else None
        resources.forget_lists()
        st.rerun()
    else:
        with st.container(border=True):
            st.markdown(f"**{_STATE_WORDS[job.state]}** · {shell.duration(job.seconds)}")
            if job.state == "queued":
                st.caption(f"{job.ahead} before this one.")
            elif at := job.progress:
                st.progress(at.done / at.total if at.total else 1.0, text=cards.progress_words(at))
                if at.done == at.total:
                    st.caption("Scoring and logging")
            else:
                st.caption("Starting the worker")
            st.button(
                "Cancel", icon=":material/close:", on_click=resources.kit().evaluations.cancel,
                args=(job, resources.actor()), disabled=not job.belongs_to(resources.actor()),
                key="cancel_evaluation",
            )  # fmt: skip


@st.cache_data(max_entries=20, show_spinner="Reading the answers")
def _answers(run_id: str) -> pd.DataFrame:
    return results.answers_of(run_id, resources.settings())


def label(evaluation: Evaluation) -> str:
    """An evaluation in a list."""
    at = _time(evaluation)
    return f"{evaluation.wrapper} · {_model(evaluation)} · {at.day} {at:%b %H:%M} · {evaluation.questions:,} questions"


def _model(evaluation: Evaluation) -> str:
    known = next((each for each in resources.models() if each.model_uri == evaluation.model_uri), None)
    return f"{shell.source_label(known.source)} {known.precision}" if known else evaluation.model_uri


def _time(evaluation: Evaluation) -> pd.Timestamp:
    return pd.Timestamp(evaluation.at).tz_convert(shell.timezone())


def show_list(found: list[Evaluation]) -> None:
    """Every evaluation with its scores."""
    rows = [
        {
            "evaluated": _time(each),
            "wrapper": each.wrapper,
            "model": _model(each),
            "questions": each.questions,
            "failed": each.failed,
            "exact": each.exact,
            "contains": each.contains,
            "word F1": each.word_f1,
            "tokens": each.completion_tokens,
            "latency, s": each.latency_s,
            "p95, s": each.latency_p95_s,
            "data": each.data,
            "model_uri": each.model_uri,
        }
        for each in found
    ]
    columns = {"evaluated": st.column_config.DatetimeColumn(format="D MMM, HH:mm")}
    columns |= dict.fromkeys(("exact", "contains", "word F1"), _PERCENT)
    columns |= {"tokens": st.column_config.NumberColumn(format="%.1f", help="Completion tokens a question.")}
    columns |= {name: st.column_config.NumberColumn(format="%.3f") for name in ("latency, s", "p95, s")}
    with st.container(border=True):
        st.markdown("**Evaluations**")
        st.dataframe(rows, hide_index=True, column_config=columns, alt="Evaluations with their scores")
        st.caption("Each one is a run in the experiment phi3kit-evaluations, with every answer in its table.")


def show_versus(found: list[Evaluation]) -> None:
    """Two evaluations of the same questions side by side."""
    by_id = {each.run_id: each for each in found}
    if (newest := st.session_state.pop("evaluated", None)) in by_id:
        st.session_state["versus_a"] = newest
    with st.container(border=True):
        st.markdown("**Question by question**")
        with st.container(horizontal=True):
            first = st.selectbox(
                "A", list(by_id), format_func=lambda each: label(by_id[each]), key="versus_a", width=380
            )
            a = by_id[first]
            same = [each.run_id for each in found if each.digest == a.digest and each.run_id != first]
            if not same:
                st.caption("Evaluate another model on the same questions, and both are compared here.")
                second = first
            else:
                second = st.selectbox(
                    "B", same, format_func=lambda each: label(by_id[each]), key=f"versus_b_{first}", width=380
                )
        b = by_id[second]
        _show_scores(a, b)
        both = results.compare_answers(_answers(first), _answers(second))
        views = _VIEWS if same else ("wrong", "all")
        view = st.segmented_control("Show", views, default=views[0], required=True, key=f"versus_view_{len(views)}")
        shown = _viewed(both, view)
        columns = ["question", "expected", "answer_a", *(["answer_b", "better"] if same else [])]
        st.caption(f"{len(shown):,} of {len(both):,} questions")
        if shown.empty:
            _show_promotion(a, b)
            return
        st.dataframe(
            shown[columns],
            hide_index=True,
            column_config={"answer_a": "answer A" if same else "answer", "answer_b": "answer B"},
            alt="Questions with both answers",
        )
        _show_promotion(a, b)


def _show_scores(a: Evaluation, b: Evaluation) -> None:
    alone = a is b
    with st.container(horizontal=True):
        for name, title in (("exact", "Exact"), ("contains", "Contains"), ("word_f1", "Word F1")):
            left = getattr(a, name)
            points = round((left - getattr(b, name)) * 100, 1)
            _metric(
                f"{title}, A", f"{left:.1%}", None if alone else points, f"{points:+.1f} points against B", "normal"
            )
        saved_ms = round((a.latency_s - b.latency_s) * 1000)
        words = f"{saved_ms:+,} ms against B"
        _metric("Latency, A", shell.seconds(a.latency_s), None if alone else saved_ms, words, "inverse")
    if a.at_once != b.at_once:
        st.caption(f"Latency does not compare: {a.at_once} requests were under way together in A and {b.at_once} in B.")


def _metric(title: str, value: str, difference: float | None, words: str, colour: Literal["normal", "inverse"]) -> None:
    """A figure, and what it is against B's; None when there is no B."""
    if difference == 0:
        st.metric(title, value, "the same as B", delta_color="off", delta_arrow="off", border=True, height="stretch")
    else:
        delta = None if difference is None else words
        st.metric(title, value, delta, delta_color=colour, border=True, height="stretch")


def _viewed(both: pd.DataFrame, view: str) -> pd.DataFrame:
    if view in ("both wrong", "wrong"):
        return both[~both["exact_a"] & ~both["exact_b"]]
    if view == "differ":
        return both[both["answer_a"] != both["answer_b"]]
    return both if view == "all" else both[both["better"] == view[0]]


def _show_promotion(a: Evaluation, b: Evaluation) -> None:
    with st.popover("Promote", icon=":material/trophy:", disabled=not permissions.may("register")):
        sides = {"A": a, "B": b} if a is not b else {"A": a}
        side = st.segmented_control("Which", list(sides), default="A", required=True, key="promote_side")
        chosen = sides[side]
        st.markdown(theme.badge(chosen.wrapper) + f" {shell.plain(_model(chosen))}")
        known = [each.name for each in resources.registered()]
        name = st.selectbox(
            "Name in the Model Registry", known or ["phi3"], accept_new_options=True, key="promote_name"
        )
        alias = st.text_input("Alias", "champion", key="promote_alias")
        st.button(
            f"Point {name}@{alias} to it", type="primary", on_click=_promote, args=(chosen, name or "", alias.strip()),
            disabled=not (name and alias.strip()), key="promote",
        )  # fmt: skip
    if error := st.session_state.pop("promote_error", None):
        shell.show_error(error)
    if done := st.session_state.pop("promoted", None):
        st.success(f"{shell.plain(done)} now points to it. Chat, Usage and Batch follow it.", icon=":material/trophy:")


def _promote(evaluation: Evaluation, name: str, alias: str) -> None:
    try:
        st.session_state["promoted"] = promote(evaluation, name, alias, resources.actor(), resources.settings())
        resources.forget_lists()
    except Phi3KitError as error:
        st.session_state["promote_error"] = error
