"""Permissions: what the person at this tab may do, drawn as a disabled button or as one line that says why.

The kit refuses by itself; pages say so before anybody tries.
"""

from typing import Any

import streamlit as st

from phi3kit.access.roles import Act, refusal
from phi3kit.ui.shared import resources, theme
from phi3kit.ui.shared.literal import literal


def may(act: Act) -> bool:
    """Whether this person may do it."""
    return resources.actor().may(act)


def button(label: str, act: Act, *, disabled: bool = False, **more: Any) -> bool:
    """A button that is switched off for who may not do it; whether it was clicked. more: of st.button.

    A click that came with the choice that switches the button off does nothing.
    """
    off = disabled or not may(act)
    if more.get("type") == "primary":
        label = theme.on_primary(label, off=off)
    return st.button(label, disabled=off, **more) and not off


def note(act: Act) -> bool:
    """Whether this person may do it; where not, one line says why."""
    if may(act):
        return True
    error = refusal(resources.actor().role, act)
    st.info(f"{literal(error.why, inside=True)} {error.next_step}", title=literal(error.what), icon=":material/lock:")
    return False
