"""Versus: two models side by side: what they are, what was measured with each, and their signatures.

Knows how the two are chosen and drawn. What is compared, versions and signatures know.
"""

import pandas as pd
import streamlit as st

from phi3kit.evaluation import model_comparison
from phi3kit.evaluation.model_comparison import Fact
from phi3kit.formats.signatures import compare
from phi3kit.tracking.registry import ModelChoice
from phi3kit.ui.shared import resources, shell, target_choice


def show_versus(found: list[ModelChoice]) -> None:
    """Choose two, and see what differs."""
    by_uri = {choice.model_uri: choice for choice in found}
    with st.container(horizontal=True):
        chosen = [
            st.selectbox(
                side,
                list(by_uri),
                index=at,
                format_func=lambda uri: target_choice.choice_label(by_uri[uri]),
                key=f"versus_{side}",
                width=330,
            )
            for side, at in (("A", 0), ("B", _other(found)))
        ]
    a, b = (by_uri[uri].model for uri in chosen)
    if a.model_uri == b.model_uri:
        st.caption("Both are the same logged model.")
    facts = model_comparison.compare_models(a, b, resources.turns(), resources.registered(), resources.evaluations())
    rows = [
        {"": fact.name, "A": _words(fact, fact.a), "B": _words(fact, fact.b), "B against A": _against(fact)}
        for fact in facts
    ]
    with st.container(border=True):
        st.markdown("**What they are and what was measured**")
        st.dataframe(rows, hide_index=True, height="content", alt="Two models side by side")
        st.caption(
            "Speed is that of logged turns, whatever was asked: compare models that answered alike. "
            "Scores come from the newest run of phi3kit-evaluations."
        )
    with st.container(border=True), shell.errors_shown():
        st.markdown("**Signatures, field by field**")
        fields = compare(resources.signature(a.model_uri), resources.signature(b.model_uri))
        table = pd.DataFrame(
            [
                {
                    "part": row.part,
                    "field": row.name,
                    "A": str(row.a or "–"),
                    "B": str(row.b or "–"),
                    "verdict": row.verdict,
                }
                for row in fields
            ]
        )
        differing = table[table["verdict"] != "same"]
        if differing.empty:
            st.caption(f"All {len(table)} fields are the same.")
        else:
            st.dataframe(differing, hide_index=True, alt="Fields that differ")


def _other(found: list[ModelChoice]) -> int:
    """The first choice that is another model than the first one."""
    return next((at for at, each in enumerate(found) if each.model != found[0].model), 0)


def _words(fact: Fact, value: str | float | None) -> str:
    if value is None:
        return "not measured" if fact.unit in ("s", "tokens/s", "share") else "unknown"
    if isinstance(value, str):
        return shell.source_label(value) if fact.name == "source" else value
    if fact.unit == "bytes":
        return shell.size(value)
    if fact.unit == "s":
        return shell.seconds(value)
    return f"{value:.1%}" if fact.unit == "share" else f"{value:,.0f} {fact.unit}"


def _against(fact: Fact) -> str:
    if fact.a is None or fact.b is None:
        return ""
    if isinstance(fact.a, str) or isinstance(fact.b, str):
        return "same" if fact.a == fact.b else "differs"
    if fact.unit == "share":
        return f"{100 * (fact.b - fact.a):+.1f} points"
    return f"{fact.b / fact.a:.2f}×" if fact.a and fact.unit != "turns" else ""
