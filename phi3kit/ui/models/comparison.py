"""Comparison: two models side by side: what they are, what was measured with each, and their signatures.

Knows how the two are chosen and drawn. Does not know how they are compared.
"""

import streamlit as st

from phi3kit.evaluation import model_comparison
from phi3kit.evaluation.model_comparison import Fact
from phi3kit.formats.signatures import compare
from phi3kit.tracking.registry import ModelChoice
from phi3kit.ui.shared import resources, shell, target_choice, words


def show_comparison(choices: list[ModelChoice]) -> None:
    """Choose two, and see what differs."""
    other = next((each for each in choices if each.model != choices[0].model), choices[0])
    with st.container(horizontal=True):
        a = target_choice.choose_among(choices, "A", "versus_A").model
        b = target_choice.choose_among(choices, "B", "versus_B", default=other).model
    if a.model_uri == b.model_uri:
        st.caption("Both are the same logged model.")
    facts = model_comparison.compare_models(a, b, resources.turns(), resources.registered(), resources.evaluations())
    rows = [
        {"": fact.name, "A": _text(fact, fact.a), "B": _text(fact, fact.b), "B vs. A": _against(fact)} for fact in facts
    ]
    with st.container(border=True):
        st.markdown("**Details and measurements**")
        st.dataframe(rows, hide_index=True, height="content", alt="Two models side by side")
        st.caption(
            "Speed is measured over all logged turns, so compare models that were used alike. "
            "Scores come from the newest run of phi3kit-evaluations."
        )
    with st.container(border=True), shell.errors_shown():
        st.markdown("**Signatures, field by field**")
        fields = compare(resources.signature(a.model_uri), resources.signature(b.model_uri))
        differing = [
            {
                "part": row.part,
                "field": row.name,
                "A": str(row.a or "–"),
                "B": str(row.b or "–"),
                "verdict": row.verdict,
            }
            for row in fields
            if row.verdict != "same"
        ]
        if differing:
            st.dataframe(differing, hide_index=True, alt="Fields that differ")
        else:
            st.caption(f"All {len(fields)} fields are the same.")


def _text(fact: Fact, value: str | float | None) -> str:
    if value is None:
        return "not measured" if fact.unit in ("s", "tokens/s", "share") else "unknown"
    if isinstance(value, str):
        return words.source_label(value) if fact.name == "source" else value
    if fact.unit == "bytes":
        return words.size(value)
    if fact.unit == "s":
        return words.seconds(value)
    return f"{value:.1%}" if fact.unit == "share" else f"{value:,.0f} {fact.unit}"


def _against(fact: Fact) -> str:
    if fact.a is None or fact.b is None:
        return ""
    if isinstance(fact.a, str) or isinstance(fact.b, str):
        return "same" if fact.a == fact.b else "differs"
    if fact.unit == "share":
        return f"{100 * (fact.b - fact.a):+.1f} points"
    return f"{fact.b / fact.a:.2f}×" if fact.a and fact.unit != "turns" else ""
