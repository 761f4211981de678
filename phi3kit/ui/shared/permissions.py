"""Allowed: what the person at this tab may do, drawn: a switched-off button, or one line that says why.

The kit refuses by itself; here it is said before anybody tries.
"""

import streamlit as st

from phi3kit.access.roles import Act, refusal
from phi3kit.ui.shared import resources, shell


def may(act: Act) -> bool:
    """Whether this person may do it."""
    return resources.settings().may(act)


def note(act: Act) -> bool:
    """Whether this person may do it; where not, one line says why."""
    if allowed := may(act):
        return allowed
    error = refusal(resources.settings().role, act)
    st.info(f"**{shell.plain(error.what)}** {shell.plain(error.why)} {error.next_step}", icon=":material/lock:")
    return False
