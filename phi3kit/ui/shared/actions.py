"""Actions: what a click changes: done once, said once, and an error drawn by the page's next run.

Knows the order of a click, a run and a redraw. Does not know what is changed.
"""

from collections.abc import Callable
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from phi3kit.core.errors import Phi3KitError
from phi3kit.ui.shared import resources, shell, theme
from phi3kit.ui.shared.literal import literal

_ERROR, _DONE, _COUNT = "action_error", "action_done", "actions_done"


def attempt(act: Callable[[], object], done: str | Callable[[Any], str] = "", place: str = "") -> None:
    """Do it, and read the lists anew. For callbacks, and before a rerun: it draws nothing.

    done: what is said afterwards, or what makes it of the result. place: the `show_outcome` that draws the outcome.
    """
    st.session_state.pop(f"{_ERROR}{place}", None)
    try:
        result = act()
        st.session_state[f"{_DONE}{place}"] = done if isinstance(done, str) else done(result)
        st.session_state[_COUNT] = st.session_state.get(_COUNT, 0) + 1
    except Phi3KitError as error:
        st.session_state[f"{_ERROR}{place}"] = error
    finally:
        resources.forget_lists()


def popover(label: str, name: str, **more: Any) -> DeltaGenerator:
    """A popover with something to do in it, which closes when that is done: the next one is another to the browser.

    name: of the popover on its page. more: of st.popover.
    """
    return st.popover(label, key=f"{name}_{st.session_state.get(_COUNT, 0)}", **more)


def show_outcome(place: str = "", *, until_next: bool = False) -> None:
    """Draw what the last click did, or why it did not: a page's as a toast, another place's in that place.

    until_next: an error stays until the next click, where a timer draws the place anew.
    """
    if done := st.session_state.pop(f"{_DONE}{place}", None):
        draw = st.success if place else st.toast
        draw(literal(done), icon=":material/check_circle:")
    if error := st.session_state.get(f"{_ERROR}{place}"):
        shell.show_error(error)
        if not until_next:
            st.session_state.pop(f"{_ERROR}{place}")


def confirm(act: Callable[[], object], done: str | Callable[[Any], str]) -> None:
    """The two buttons under a question; either closes it."""
    with st.container(horizontal=True, horizontal_alignment="right"):
        keep = st.button("Keep", key="keep")
        label = theme.destructive("Delete")
        delete = st.button(label, icon=":material/delete:", key="confirm_delete", on_click=attempt, args=(act, done))
        if keep or delete:
            st.rerun()
