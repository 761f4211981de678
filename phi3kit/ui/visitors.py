"""Visitors: who is at this browser tab: the owner of the machine, somebody who signed in, or a stranger.

Knows sessions. What each may do, the settings that are made here say.
"""

import secrets
from dataclasses import replace

import streamlit as st

from phi3kit.settings import Settings


def acting(settings: Settings) -> Settings:
    """The settings with which this session acts: the app's own, and who acts in which role."""
    if settings.profile == "local":
        return replace(settings, role="admin")
    if settings.profile == "public":
        return replace(settings, role="visitor", user=_guest())
    return replace(settings, role="nobody", user="")


def _guest() -> str:
    """A name that lasts as long as the tab: nobody is asked who they are."""
    if "guest" not in st.session_state:
        st.session_state["guest"] = f"guest-{secrets.token_hex(6)}"
    return str(st.session_state["guest"])
