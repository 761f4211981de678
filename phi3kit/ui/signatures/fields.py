"""Fields: two signatures as trees and field by field: of two models, or then and now.

Knows how they are drawn. Does not know how signatures are compared.
"""

import pandas as pd
import streamlit as st

from phi3kit.core.records import WrapperName
from phi3kit.formats.signatures import ComparedField, chapter_signature, compare
from phi3kit.ui.shared import elements, signature_tree, theme
from phi3kit.ui.shared.literal import literal
from phi3kit.ui.signatures.sides import Side

_ORIGINS: dict[WrapperName, str] = {
    "transformers": "OpenAI's chat interface: a list of messages in, choices and usage out. MLflow gives it to every "
    "model that is logged with the task llm/v1/chat.",
    "onnx": "One text in, one text out. MLflow inferred it from the example {“prompt”: …} and the answer “Run”.",
}


def show_fields(a: Side, b: Side) -> None:
    """Both models' signatures."""
    for column, side in zip(st.columns(2), (a, b), strict=True):
        with column, st.container(border=True, height="stretch"):
            st.markdown(side.heading)
            st.caption(_ORIGINS[side.wrapper])
            signature_tree.show(side.signature, f"sig_{side.letter}")
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown("**Field by field**", width="content")
            only = st.toggle("Only what differs", key="sig_differences")
        _show_table(compare(a.signature, b.signature), ("A", "B"), only)
        without = [side.letter for side in (a, b) if side.signature.params is None]
        if without:
            st.caption(f"params: None in {' and '.join(without)}, as in the chapter.")


def show_since_chapter(a: Side, b: Side) -> None:
    """What the chapter printed in 2024 beside what MLflow gives today."""
    wrappers = list(dict.fromkeys((a.wrapper, b.wrapper)))
    wrapper = elements.choose_one("Wrapper", wrappers, "sig_chapter", label_visibility="collapsed")
    side = a if wrapper == a.wrapper else b
    then_and_now = {"The chapter, 2024": chapter_signature(side.wrapper), f"{side.letter}, today": side.signature}
    for column, (title, signature), age in zip(st.columns(2), then_and_now.items(), ("then", "now"), strict=True):
        with column, st.container(border=True, height="stretch"):
            st.markdown(f"**{title}** {theme.badge(side.wrapper)}")
            signature_tree.show(signature, f"sig_{wrapper}_{age}")
    with st.container(border=True):
        rows = compare(*then_and_now.values())
        st.markdown("**What changed**")
        st.markdown(_changes(rows))
        _show_table(rows, ("chapter", "today"), only_differences=any(row.verdict != "same" for row in rows))


def _show_table(rows: list[ComparedField], names: tuple[str, str], only_differences: bool) -> None:
    verdicts = {"same": "same", "differs": "differs", "only A": f"only {names[0]}", "only B": f"only {names[1]}"}
    counts = [(sum(row.verdict == verdict for row in rows), label) for verdict, label in verdicts.items()]
    st.caption(" · ".join(f"{count} {label.replace('differs', 'differ')}" for count, label in counts if count))
    table = pd.DataFrame(
        [
            (row.part, row.name, row.type, row.required, row.a is not None, row.b is not None, verdicts[row.verdict])
            for row in rows
            if not only_differences or row.verdict != "same"
        ],
        columns=["part", "field", "type", "required", f"in {names[0]}", f"in {names[1]}", "verdict"],
    )
    if table.empty:
        st.markdown("No fields differ.")
        return
    st.dataframe(table, hide_index=True, height=min(36 * (len(table) + 1), 480), alt="Signatures, field by field")


def _changes(rows: list[ComparedField]) -> str:
    """In words: what is new, what is gone, what is no longer required, what changed otherwise."""
    new = [row.name for row in rows if row.verdict == "only B" and not _is_part_of_new(row, rows)]
    gone = [row.name for row in rows if row.verdict == "only A"]
    freed = [row.name for row in rows if row.a and row.b and row.a.required and not row.b.required]
    other = [row.name for row in rows if row.verdict == "differs" and row.name not in freed]
    parts = (("Added", new), ("No longer required", freed), ("Changed", other), ("Removed", gone))
    lines = [f"- {title}: {literal(', '.join(names))}" for title, names in parts if names]
    return "\n".join(lines) or "Nothing. MLflow still infers what the chapter printed."


def _is_part_of_new(row: ComparedField, rows: list[ComparedField]) -> bool:
    """Whether a field belongs to one that is new itself."""
    return any(
        other.verdict == "only B"
        and other.part == row.part
        and row.name.startswith((f"{other.name}.", f"{other.name}[", f"{other.name}{{"))
        for other in rows
    )
