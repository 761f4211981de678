"""Elements: what pages draw alike: a choice of few, a table to choose a row of, figures, scrolled code, a model's signature and files.

Knows Streamlit's elements and what they return.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import pandas as pd
import streamlit as st

from phi3kit.ui.shared import resources, shell, signature_tree
from phi3kit.ui.shared.literal import literal

T = TypeVar("T")

DATE = st.column_config.DatetimeColumn(format="D MMM YYYY, HH:mm:ss")
_SHOWN_VALUE = 60  # characters of a link's
MEGABYTES = st.column_config.NumberColumn("size, MB", format="%.1f")


def choose_one(label: str, options: Iterable[T], key: str, **more: Any) -> T:
    """One of a few options, the first unless another is chosen; kept while other pages are open.

    more: of st.segmented_control.
    """
    options = list(options)
    if more.get("bind"):
        check_link(key, label, map(more.get("format_func", str), options))
    usual = {"default": options[0], "persist_state": "session"}
    chosen: Any = st.segmented_control(label, options, required=True, key=key, **{**usual, **more})
    return chosen


def choose_from(label: str, options: Iterable[T], key: str, *, default: T | None = None, **more: Any) -> T:
    """One of many options, the first or `default` unless another is chosen; kept while other pages are open.

    Until something is chosen, here or by `set_choice`, a new default (a model that was just built) takes the place of the
    one before. more: of st.selectbox.
    """
    options = list(options)
    default = options[0] if default is None else default
    chosen = st.session_state.get(key)
    if chosen not in options or (chosen != default and not st.session_state.get(f"{key}_chosen")):
        st.session_state[key] = default
        st.session_state[f"{key}_chosen"] = False
    found: Any = st.selectbox(
        label, options, key=key, persist_state="session", on_change=keep_choice, args=(key,), **more
    )
    return found


def set_choice(key: str, value: object) -> None:
    """Choose an option of `choose_from`, before it is drawn."""
    st.session_state[key] = value
    keep_choice(key)


def keep_choice(key: str) -> None:
    """No new default takes the place of what is chosen now."""
    st.session_state[f"{key}_chosen"] = True


def check_link(key: str, what: str, options: Iterable[str]) -> None:
    """Say which values of a link cannot be chosen; before the widget is drawn, which drops them without a word.

    key: of the widget that is bound to the address. what: its label. options: as they are shown.
    """
    known = set(options)
    for value in st.query_params.get_all(key):
        if value and value not in known:
            shown = value if len(value) <= _SHOWN_VALUE else f"{value[:_SHOWN_VALUE]}…"
            st.toast(
                literal(f"The link asks for {shown!r} under {what}. It cannot be chosen here and was ignored."),
                icon=":material/link_off:", duration="long",
            )  # fmt: skip


def choose_view(options: Iterable[T], key: str) -> T:
    """Which of a page's views is shown; kept in the page's address."""
    return choose_one("View", options, key, label_visibility="collapsed", bind="query-params")


def choose_row(
    rows: Sequence[dict[str, Any]] | pd.DataFrame,
    ids: Sequence[str],
    key: str,
    alt: str,
    columns: Mapping[str, Any] | None = None,
    **more: Any,
) -> str | None:
    """Draw the rows; the id of the one that was chosen by a click anywhere in it. None: none is, or it is no longer there.

    ids: of the rows, in their order. more: of st.dataframe. A browser knows a selection by its position, and rows move when
    others come or go: remembered is the id, and other rows are another table, in which the same one is selected.
    """
    table = f"{key}_{st.session_state.get(f'{key}_forgotten', 0)}_{zlib.crc32(' '.join(ids).encode()):x}"
    chosen_key, cell_key = f"{key}_chosen", f"{table}_cell"

    def choose() -> None:  # with the ids of the table that was clicked
        selection = st.session_state[table].selection
        cell = selection.cells[0] if selection.cells else None
        at = [cell[0]] if cell and cell != st.session_state.get(cell_key) else list(selection.rows)
        chosen = ids[at[0]] if at else None
        # A clicked cell marks its row and is let go. A browser takes no selection twice: in the row that is marked
        # already the cell stays selected, and must not count as a click when the row's box is clicked next.
        stays = cell if chosen is not None and chosen == st.session_state.get(chosen_key) else None
        st.session_state[chosen_key], st.session_state[cell_key] = chosen, stays
        st.session_state[table] = {"selection": {"rows": at, "cells": [stays] if stays else []}}

    chosen = chosen_row(ids, key)
    at = [ids.index(chosen)] if chosen else []
    st.dataframe(
        rows, hide_index=True, on_select=choose, selection_mode=["single-row", "single-cell"], key=table, alt=alt,
        column_config=columns, selection_default={"selection": {"rows": at}}, **more,
    )  # fmt: skip
    return chosen


def chosen_row(ids: Sequence[str], key: str) -> str | None:
    """The id of the row that is chosen in the table of `choose_row`, drawn or not; None: none is, or it is gone."""
    chosen: str | None = st.session_state.get(f"{key}_chosen")
    return chosen if chosen in ids else None


def forget_row(key: str) -> None:
    """No row of the table of `choose_row` is chosen any more, nor marked in the browser."""
    st.session_state.pop(f"{key}_chosen", None)
    st.session_state[f"{key}_forgotten"] = st.session_state.get(f"{key}_forgotten", 0) + 1


def show_metrics(figures: Mapping[str, str]) -> None:
    """Figures beside each other, by their labels."""
    with st.container(horizontal=True):
        for label, value in figures.items():
            st.metric(label, value, border=True, height="stretch")


def scrolled_code(text: str, height: int, language: str | None = None) -> None:
    """A text that scrolls when it is long, by the keyboard too. height: in pixels.

    A code box with a height of its own takes the focus outside of what scrolls in it.
    """
    with st.container(height=height, border=False):
        st.code(text, language=language, wrap_lines=True)


def show_signature(model_uri: str) -> None:
    """A logged model's signature as a tree."""
    with shell.errors_shown():
        signature_tree.show(resources.signature(model_uri), f"signature_{model_uri}")


def show_files(model_uri: str) -> None:
    """A logged model's files and their sizes."""
    with shell.errors_shown():
        table = pd.DataFrame(resources.files(model_uri), columns=["file", "bytes"])
        localized = st.column_config.NumberColumn(format="localized")
        st.dataframe(table, hide_index=True, column_config={"bytes": localized}, alt="The logged model's files")
