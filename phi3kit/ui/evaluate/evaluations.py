"""Evaluations: those that were logged, two of them question by question, and the better one promoted.

Knows how they are drawn. Does not know how answers are scored, compared or promoted.
"""

from collections.abc import Mapping
from functools import partial

import pandas as pd
import streamlit as st

from phi3kit.evaluation import results
from phi3kit.evaluation.promote import promote
from phi3kit.evaluation.results import Evaluation
from phi3kit.ui.shared import actions, elements, permissions, resources, theme, words
from phi3kit.ui.shared.literal import literal

EVALUATED = "evaluated"  # the run of the evaluation that has just ended here, in the session's state
_VIEWS = ("differ", "A better", "B better", "both wrong", "all")


@st.cache_data(max_entries=20, show_spinner="Reading the answers")
def _answers(run_id: str) -> pd.DataFrame:
    """The answers of one evaluation, which never change. Raises StorageFailed."""
    return results.answers_of(run_id, resources.settings())


def _label(evaluation: Evaluation, names: Mapping[str, str]) -> str:
    """An evaluation in a list. names: of models, by their URI."""
    parts = [
        evaluation.wrapper,
        names.get(evaluation.model_uri, evaluation.model_uri),
        words.date(evaluation.at),
        f"{evaluation.questions:,} questions",
    ]
    return " · ".join(parts)


def show_list(found: list[Evaluation]) -> None:
    """Every evaluation with its scores."""
    names = resources.model_names()
    rows = [
        {
            "evaluated": words.local(each.at),
            "wrapper": each.wrapper,
            "model": names.get(each.model_uri, each.model_uri),
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
    number = st.column_config.NumberColumn
    columns = {"evaluated": st.column_config.DatetimeColumn(format="D MMM, HH:mm")}
    columns |= dict.fromkeys(("exact", "contains", "word F1"), number(format="percent"))
    columns |= {"tokens": number(format="%.1f", help="Completion tokens per question.")}
    columns |= dict.fromkeys(("latency, s", "p95, s"), number(format="%.3f"))
    with st.container(border=True):
        st.markdown("**Evaluations**")
        st.dataframe(rows, hide_index=True, column_config=columns, alt="Evaluations with their scores")
        st.caption("Each evaluation is a run in the experiment phi3kit-evaluations, with every answer in its table.")


def show_comparison(found: list[Evaluation]) -> None:
    """Two evaluations of the same questions, question by question; one alone when there is no second."""
    by_id, names = {each.run_id: each for each in found}, resources.model_names()
    if (newest := st.session_state.pop(EVALUATED, None)) in by_id:
        elements.set_choice("versus_a", newest)

    def choose(letter: str, ids: list[str], key: str) -> str:
        return elements.choose_from(letter, ids, key, format_func=lambda each: _label(by_id[each], names), width=380)

    with st.container(border=True):
        st.markdown("**Question by question**")
        with st.container(horizontal=True):
            first = choose("A", list(by_id), "versus_a")
            a = by_id[first]
            others = [each.run_id for each in found if each.digest == a.digest and each.run_id != first]
            if others:
                second = choose("B", others, f"versus_b_{first}")
            else:
                second = first
                st.caption("Evaluate another model on the same questions to compare both here.")
        b = by_id[second]
        _show_scores(a, b)
        both = results.compare_answers(_answers(first), _answers(second))
        with_texts = results.keeps_texts(both)
        views = _views(with_texts) if others else ("wrong", "all")
        view = elements.choose_one("Show", views, f"versus_view_{len(views)}")
        shown = _viewed(both, view)
        st.caption(f"{len(shown):,} of {len(both):,} questions")
        if not with_texts:
            st.caption("Only scores are shown: questions and answers were not logged (PHI3KIT_LOG_TEXT=0).")
        if not shown.empty:
            of_a, of_b = ["question", "expected", "answer_a"], ["answer_b"]
            if not with_texts:
                of_a, of_b = ["exact_a", "word_f1_a"], ["exact_b", "word_f1_b"]
            columns = [*of_a, *([*of_b, "better"] if others else [])]
            st.dataframe(
                shown[columns],
                hide_index=True,
                column_config={"answer_a": "answer A" if others else "answer", "answer_b": "answer B"},
                alt="Questions with both answers",
            )
        _show_promotion(a, b, names)


def _show_scores(a: Evaluation, b: Evaluation) -> None:
    def metric(title: str, value: str, difference: float, unit: str, colour: str = "normal") -> None:
        against, arrow = f"{unit} vs. B", "auto"
        if difference == 0:
            against, colour, arrow = "same as B", "off", "off"
        delta = None if a is b else against
        st.metric(title, value, delta, delta_color=colour, delta_arrow=arrow, border=True, height="stretch")  # type: ignore[arg-type]

    with st.container(horizontal=True):
        for name, title in (("exact", "Exact"), ("contains", "Contains"), ("word_f1", "Word F1")):
            value = getattr(a, name)
            points = round((value - getattr(b, name)) * 100, 1)
            metric(f"{title}, A", f"{value:.1%}", points, f"{points:+.1f} points")
        saved_ms = round((a.latency_s - b.latency_s) * 1000)
        metric("Latency, A", words.seconds(a.latency_s), saved_ms, f"{saved_ms:+,} ms", "inverse")
    if a.at_once != b.at_once:
        st.caption(f"Latencies are not comparable: A sent {a.at_once} requests at once and B {b.at_once}.")


def _views(with_texts: bool) -> tuple[str, ...]:
    return _VIEWS if with_texts else tuple(each for each in _VIEWS if each != "differ")


def _viewed(both: pd.DataFrame, view: str) -> pd.DataFrame:
    if view in ("both wrong", "wrong"):
        return both[~both["exact_a"] & ~both["exact_b"]]
    if view == "differ":
        return both[both["answer_a"] != both["answer_b"]]
    return both if view == "all" else both[both["better"] == view[0]]


def _show_promotion(a: Evaluation, b: Evaluation, names: Mapping[str, str]) -> None:
    off = not permissions.may("register")
    with actions.popover("Promote", "promotion", icon=":material/trophy:", disabled=off):
        sides = {"A": a, "B": b} if a is not b else {"A": a}
        side = elements.choose_one("Model", sides, "promote_side", persist_state=None)
        better = sides[side]
        st.markdown(
            f"{theme.badge(better.wrapper)} {literal(names.get(better.model_uri, better.model_uri), inside=True)}"
        )
        known = [each.name for each in resources.registered()]
        name = st.selectbox(
            "Name in the Model Registry", known or ["phi3"], accept_new_options=True, key="promote_name"
        )
        alias = st.text_input("Alias", "champion", key="promote_alias").strip()
        act = partial(promote, better, name or "", alias, resources.actor(), resources.settings())
        if permissions.button(
            literal(f"Point {name}@{alias} to it", inside=True),
            "register",
            type="primary",
            disabled=not (name and alias),
            key="promote",
        ):
            actions.attempt(
                act, lambda target: f"{target} now points to this model. Chat, Usage and Batch use it.", "promotion"
            )
            st.rerun()
    actions.show_outcome("promotion")
