"""Acting: what a click changes in the store: done once, said once, and an error drawn by the page's next run.

Knows the order of a click, a run and a redraw. What is changed, the caller says.
"""

from collections.abc import Callable
from typing import Any

import streamlit as st

from phi3kit.core.errors import Phi3KitError
from phi3kit.ui.shared import resources, shell

_ERROR, _DONE = "action_error", "action_done"


def attempt(act: Callable[[], object], done: str | Callable[[Any], str]) -> None:
    """Do it and read the lists anew. For callbacks, and before a rerun: nothing is drawn here.

    done: what is said then, or how it is said of what came out.
    """
    try:
        found = act()
        st.session_state[_DONE] = done if isinstance(done, str) else done(found)
    except Phi3KitError as error:
        st.session_state[_ERROR] = error
    finally:
        resources.forget_lists()


def show_outcome() -> None:
    """Draw what the last click did, or why it did not."""
    if done := st.session_state.pop(_DONE, None):
        st.toast(shell.plain(done), icon=":material/check_circle:")
    if error := st.session_state.pop(_ERROR, None):
        shell.show_error(error)


def confirm(act: Callable[[], object], done: str | Callable[[Any], str]) -> None:
    """The two buttons under a question; either closes it."""
    with st.container(horizontal=True, horizontal_alignment="right"):
        keep = st.button("Keep", key="keep")
        delete = st.button(
            "Delete",
            type="primary",
            icon=":material/delete:",
            key="confirm_delete",
            on_click=attempt,
            args=(act, done),
        )
        if keep or delete:
            st.rerun()
