"""Shell: what frames every page: its title, errors, empty states, and the sidebar's state.

Knows how they are drawn, not what they mean.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import streamlit as st

from phi3kit.core.errors import ModelNotFound, Phi3KitError
from phi3kit.ui.shared import pages, resources, theme, words
from phi3kit.ui.shared.literal import literal

ICON, LOGO = (str(Path(__file__).with_name(name)) for name in ("icon.png", "logo.svg"))


def begin(title: str) -> None:
    """Begin a page with its title. The router lets nobody in who has no role; no page relies on it."""
    st.title(title)
    with errors_shown():
        if resources.actor().role != "nobody":
            return
    st.stop()


@contextmanager
def errors_shown() -> Iterator[None]:
    """Draw a deliberate error in its three parts; bugs pass through."""
    try:
        yield
    except Phi3KitError as error:
        show_error(error)


def show_error(error: Phi3KitError, title: str | None = None) -> None:
    """What happened (or a title that says it shorter), why, what to do, and the page where it is done."""
    body = f"{literal(error.why, inside=True)}\n\n{literal(error.next_step, inside=True)}"
    st.error(body, title=literal(title or error.what), icon=":material/error:")
    if isinstance(error, ModelNotFound):
        pages.link("build", "Open Build")


def show_empty(sentence: str, page: str, label: str) -> None:
    """One sentence on what would be here, and a link to the page that makes it so."""
    with st.container(border=True):
        st.markdown(sentence)
        pages.link(page, label)


def show_status() -> None:
    """What is loaded and what waits; the same on every page. Never blocks one: it looks at this process only.

    Drawn with each run and not by a timer: a fragment's timer that fires while an answer streams can leave Streamlit
    1.67's browser side believing that the page still runs.
    """
    shared = resources.kit()
    st.caption("Loaded models")
    workers = shared.pool.statuses()
    if not workers:
        st.caption("None. A model loads when you talk to it.")
    for worker in workers:
        memory = f" · {worker.memory_bytes / 1e6:,.0f} MB" if worker.memory_bytes else ""
        st.markdown(f"{theme.badge(worker.wrapper)} {words.state(worker.state)}{memory}")
    writer = shared.writer.state()
    st.caption(
        f"Store: {literal(resources.settings().store_name, inside=True)} · {words.counted(writer.waiting, 'turn')} waiting"
    )
    if writer.problem:
        st.caption(f":yellow[:material/warning:] Turns are waiting: {literal(writer.problem, inside=True)}")
