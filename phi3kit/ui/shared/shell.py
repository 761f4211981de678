"""Shell: what frames every page: errors, empty states, the sidebar, small words about numbers.

Knows how things are drawn, not what they mean.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from zoneinfo import ZoneInfo

import streamlit as st
from streamlit.runtime.pages_manager import PagesManager

from phi3kit.core.errors import ModelNotFound, Phi3KitError
from phi3kit.formats.safe_markdown import for_pages
from phi3kit.packaging.sources.find import EMBEDDED
from phi3kit.tracking.logged_models import LoggedModel
from phi3kit.ui.shared import resources, theme

ICON = Path(__file__).with_name("icon.png")
CHART_CONFIG = {"displayModeBar": False}
_STATE_WORDS = {
    "ready": ":green[●] ready",
    "starting": ":orange[●] loading",
    "stopped": ":gray[●] stopped",
    "ended": ":red[●] ended",
}


def begin(title: str) -> None:
    """Begin a page: its title, and the router around it."""
    # Streamlit takes pages/ for its older kind of app until st.navigation was called once: when the first visitor of a
    # new server comes by a link to a page, that page runs without the router. Then run again, with it.
    if "routed" not in st.session_state:
        PagesManager.uses_pages_directory = False
        st.rerun()
    st.title(title)
    with errors_shown():
        if resources.actor().role != "nobody":
            return
    st.stop()  # the router lets nobody in; no page counts on it


def page(name: str) -> str:
    """The path of a page as the router names it, for links."""
    return f"pages/{name}.py"


@contextmanager
def errors_shown() -> Iterator[None]:
    """Draw a deliberate error in its three parts; bugs pass through."""
    try:
        yield
    except Phi3KitError as error:
        show_error(error)


def show_error(error: Phi3KitError, title: str | None = None) -> None:
    """What happened (or a title that says it shorter), why, what to do, and the page where it is done."""
    what = plain(title or error.what)
    st.error(f"**{what}** {plain(error.why)}\n\n{plain(error.next_step)}", icon=":material/error:")
    if isinstance(error, ModelNotFound):
        st.page_link(page("build"), label="Open Build", icon=":material/deployed_code:")


def empty_state(sentence: str, link_page: str, link_label: str, icon: str) -> None:
    """One sentence on what would be here, one link that makes it so."""
    with st.container(border=True):
        st.markdown(sentence)
        st.page_link(page(link_page), label=link_label, icon=icon)


def safe_markdown(text: str) -> str:
    """Model output as Markdown that loads nothing: Streamlit escapes HTML, and images become text."""
    return for_pages(text)


def seconds(value: float | None) -> str:
    """A duration in the unit that reads best."""
    if value is None:
        return "no token"
    return f"{value * 1000:,.0f} ms" if value < 1 else f"{value:,.2f} s"


def model_label(model: LoggedModel) -> str:
    """A model in a list: which weights, how precise, when it was built (in the viewer's zone)."""
    built_at = model.created_at.astimezone(ZoneInfo(timezone()))
    return f"{source_label(model.source)} · {model.precision} · {built_at.day} {built_at:%b %H:%M}"


def source_label(source: str) -> str:
    """A source as the pages name it."""
    return "embedded (small)" if source == EMBEDDED else PurePath(source).name or source


def state(name: str) -> str:
    """A worker's or server's state as Markdown."""
    return _STATE_WORDS[name]


def timezone() -> str:
    """The viewer's time zone by name; UTC where the browser does not say."""
    return st.context.timezone or "UTC"


def counted(count: int, what: str) -> str:
    """A number and what it counts: 1 turn, 1,200 turns."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def size(count: float) -> str:
    """A size in MB, or in GB from one on, with one decimal."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def duration(span_s: float) -> str:
    """A span of time in seconds, minutes or hours."""
    if span_s < 100:
        return f"{span_s:,.0f} s"
    return f"{span_s / 60:,.0f} min" if span_s < 6000 else f"{span_s / 3600:,.1f} h"


def status() -> None:
    """What is loaded and what waits; the same on every page. Never blocks one: it looks at this process only.

    Drawn with each run and not by a timer: a fragment's timer that fires while an answer streams can leave Streamlit
    1.67's browser side believing that the page still runs.
    """
    shared = resources.kit()
    st.caption("Loaded models")
    workers = shared.pool.statuses()
    if not workers:
        st.caption("None. A model is loaded when you talk to it.")
    for worker in workers:
        memory = f" · {worker.memory_bytes / 1e6:,.0f} MB" if worker.memory_bytes else ""
        st.markdown(f"{theme.badge(worker.wrapper)} {_STATE_WORDS[worker.state]}{memory}")
    writer = shared.writer.state()
    st.caption(f"Store: {plain(resources.settings().store_name)} · {writer.waiting:,} waiting")
    if writer.problem:
        st.caption(f":orange[:material/warning:] Turns wait: {plain(writer.problem)}")


def plain(text: str) -> str:
    """Text inside Markdown that must not become Markdown."""
    for char in "\\`*_[]<>$#~|":
        text = text.replace(char, f"\\{char}")
    return text
