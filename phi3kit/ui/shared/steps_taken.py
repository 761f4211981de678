"""Steps taken: which pages this person has seen, for Home's marks: in the session, and on the server where words are kept.

A folder that cannot be used costs the marks and nothing else. Draws nothing.
"""

import contextlib

import streamlit as st

from phi3kit.access.seen_pages import SeenPages
from phi3kit.core.errors import StorageFailed
from phi3kit.ui.shared import resources

_KEY = "seen_pages"


def see(page: str) -> None:
    """Remember that a page was seen."""
    if page not in (known := seen()):
        known.add(page)
        if resources.actor().may("keep"):
            with contextlib.suppress(StorageFailed):
                _kept().add(page)


def seen() -> set[str]:
    """The pages that were seen, in this tab or before it."""
    if _KEY not in st.session_state:
        st.session_state[_KEY] = set()
        if resources.actor().may("keep"):
            with contextlib.suppress(StorageFailed):
                st.session_state[_KEY] = _kept().names()
    found: set[str] = st.session_state[_KEY]
    return found


def _kept() -> SeenPages:
    return SeenPages(resources.settings().home, resources.actor().name)
