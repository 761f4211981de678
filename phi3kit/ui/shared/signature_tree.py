"""Signature tree: a model's signature as fields in each other, with a search; MLflow's own text is one click away.

Knows how it is drawn. Does not know how fields are found.
"""

from collections.abc import Sequence
from itertools import groupby

import streamlit as st
from mlflow.models import ModelSignature

from phi3kit.formats.signatures import PARTS, FieldNode, describe, field_tree
from phi3kit.ui.shared.literal import literal

_FEW_FIELDS = 8  # are seen at once; more scroll and can be searched
_MOST_FIELDS = 500
_HEIGHT = 360  # pixels


def show(signature: ModelSignature, key: str) -> None:
    """The tree, its search and the exact text. key: of its widgets."""
    described, search = describe(signature), ""
    many = len(described.fields) > _FEW_FIELDS
    with st.container(horizontal=True, vertical_alignment="center"):
        if many:
            search = st.text_input(
                "Search fields", type="search", key=f"{key}_search", placeholder="Search fields",
                label_visibility="collapsed", width=220,
            ) or ""  # fmt: skip
        with st.popover("Exact text", icon=":material/data_object:", key=f"{key}_text", type="tertiary"):
            st.code(described.notation, language=None, wrap_lines=True)
    tree = field_tree(described.fields[:_MOST_FIELDS], search)
    if (more := len(described.fields) - _MOST_FIELDS) > 0:
        st.caption(f"{more:,} more fields are only in the exact text.")
    if search and not tree:
        st.caption("No field has this text.")
    with st.container(height=_HEIGHT if many else "content", border=False, gap="xsmall"):
        for part in PARTS:
            if part in tree:
                st.markdown(f"**{part}**")
                _show_nodes(tree[part], unfolded=bool(search))
            elif not search:
                st.markdown(f"**{part}** none")


def _show_nodes(nodes: Sequence[FieldNode], unfolded: bool) -> None:
    for has_parts, group in groupby(nodes, lambda node: bool(node.nodes)):
        if not has_parts:
            st.markdown("\n".join(f"- {_label(node)}" for node in group))
            continue
        for node in group:
            with st.expander(_label(node), expanded=unfolded), st.container(gap="xsmall"):
                _show_nodes(node.nodes, unfolded)


def _label(node: FieldNode) -> str:
    return f"**{literal(node.name, inside=True)}** {literal(str(node.field), inside=True)}"
