"""Sides: what is compared: a model or connection for each letter, and the parameters it is asked with.

Knows widgets. Does not know how a side is asked.
"""

from collections.abc import Sequence

import streamlit as st

from phi3kit.conversations.comparison import LETTERS
from phi3kit.core.records import Interface
from phi3kit.endpoints.records import Request
from phi3kit.endpoints.targets import Target
from phi3kit.ui.shared import elements, parameters, target_choice, theme
from phi3kit.ui.shared.literal import literal

_NO_LIMIT = 10**9


def choose_sides(count: int, interface: Interface) -> list[Target]:
    """What to compare, a selectbox a side; none (and an empty state) when there is nothing to talk to."""
    found = target_choice.available()
    if not found:
        target_choice.show_nothing_yet()
        return []
    by_uri = {target.model_uri: target for target in found}
    sides = []
    for letter, column, default in zip(LETTERS, st.columns(count), _defaults(found, count), strict=False):
        with column:
            uri = elements.choose_from(
                letter,
                by_uri,
                f"compare_{letter}",
                default=default.model_uri,
                format_func=lambda each: f"{by_uri[each].wrapper} · {by_uri[each].label}",
                help="A logged model, or a connection to a remote endpoint. You can choose the same one twice.",
            )
            sides.append(by_uri[uri])
            if note := target_choice.note(by_uri[uri], interface):
                st.caption(note)
    return sides


def choose_parameters(sides: Sequence[Target], separate: bool) -> list[Request]:
    """A request for each side, with the parameters of all or its own; the prompt is still to come."""
    if not separate:
        smallest = min(sides, key=lambda side: side.context_tokens or _NO_LIMIT)
        return [parameters.parameters_popover("compare", smallest, ())] * len(sides)
    requests = []
    for letter, side in zip(LETTERS, sides, strict=False):
        with st.container(horizontal=True, vertical_alignment="center", width="content"):
            st.markdown(f"**{letter}**", width="content")
            requests.append(parameters.parameters_popover(f"compare_{letter}", side, ()))
    return requests


def show_heading(letter: str, side: Target) -> None:
    """A side's letter, wrapper and model."""
    st.markdown(f"**{letter}** {theme.badge(side.wrapper)} {literal(side.label, inside=True)}")


def _defaults(found: list[Target], count: int) -> list[Target]:
    """One of each wrapper first, then what is left."""
    first_of_each = {target.wrapper: target for target in reversed(found)}
    order = [first_of_each[name] for name in ("transformers", "onnx", "remote") if name in first_of_each]
    order += [target for target in found if target not in order]
    return (order * count)[:count]
