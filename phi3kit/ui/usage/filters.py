"""Filters: which turns a person wants to see, kept in the page's address.

Knows widgets. Does not know how turns are read.
"""

from dataclasses import dataclass
from zlib import crc32

import pandas as pd
import streamlit as st

from phi3kit.core.records import SERVED
from phi3kit.ui.shared import elements
from phi3kit.usage import summary, turns_table

PERIODS = {"24 hours": "24h", "7 days": "7d", "30 days": "30d", "All": "all"}
INTERFACES = ["openai", "raw"]
_MOST_OPTIONS = 1000  # of one filter: strangers and other programs may make as many as they like
_MORE = {  # columns that few people filter by: label, and what it says when nothing is chosen
    "origin": ("Origin", "All origins"),
    "user": ("User", "All users"),
    "model_uri": ("Model", "All models"),
    "finish_reason": ("Finish reason", "All finish reasons"),
}


@dataclass(frozen=True)
class Chosen:
    """The turns that fit the filters, and those of the period before that would."""

    turns: pd.DataFrame
    before: pd.DataFrame | None  # None where there is no period before
    period: str  # as it is shown
    begin: pd.Timestamp | None  # of the period; None where it is all time
    now: pd.Timestamp  # its end


def choose(everything: pd.DataFrame) -> Chosen:
    """Draw the filters in the row that is open, and apply them."""
    period = elements.choose_one("Period", PERIODS, "usage_period", default="7 days", bind="query-params")
    # The three are always there: a wrapper that appears later must not be left out by an older choice.
    by = summary.served_by(everything)
    known = [*SERVED, *(name for name in summary.served(by) if name not in SERVED)]
    # Where not all have room, the same number may be others.
    which = f"_{crc32(' '.join(known).encode()):x}" if summary.REST in known else ""
    key = f"usage_wrapper_{len(known)}{which}"
    elements.check_link(key, "Wrapper", known)
    wrappers = st.pills("Wrapper", known, selection_mode="multi", default=known, key=key, bind="query-params")
    elements.check_link("usage_interface", "Interface", INTERFACES)
    interfaces = st.pills(
        "Interface", INTERFACES, selection_mode="multi", default=INTERFACES, key="usage_interface", bind="query-params"
    )
    more = {}
    names = [f"usage_{column}" for column in _MORE]
    # On a link's first run the widgets below have not taken their values from the address yet.
    count = sum(
        bool(st.session_state[name] if name in st.session_state else st.query_params.get(name)) for name in names
    )
    with st.popover(f"Filters · {count}" if count else "Filters", icon=":material/filter_alt:"):
        for column, (label, placeholder) in _MORE.items():
            options = sorted(everything[column].value_counts().index[:_MOST_OPTIONS])  # those with most turns
            elements.check_link(f"usage_{column}", label, options)
            more[column] = st.multiselect(
                label, options, key=f"usage_{column}", bind="query-params", placeholder=placeholder, width=320
            )
    st.button(
        "Refresh",
        icon=":material/refresh:",
        help="Re-read all turns from MLflow, including deleted and changed ones.",
        on_click=_request_whole,
    )
    code, now = PERIODS[period], pd.Timestamp.now(tz="UTC")
    before = turns_table.before(everything, code, now)
    return Chosen(
        _fitting(turns_table.since(everything, code, now), by.isin(wrappers), interfaces, more),
        None if before is None else _fitting(before, by.isin(wrappers), interfaces, more),
        period,
        None if before is None else now - turns_table.length_of(code),
        now,
    )


def _request_whole() -> None:
    st.session_state["usage_whole"] = True


def whole_requested() -> bool:
    """Whether Refresh was pressed just now. Asked before the turns are read; the button is drawn after."""
    return bool(st.session_state.pop("usage_whole", False))


def _fitting(
    turns: pd.DataFrame, of_wrappers: pd.Series, interfaces: list[str], more: dict[str, list[str]]
) -> pd.DataFrame:
    fits = of_wrappers.loc[turns.index]
    # A turn that another program wrote has no interface: it is shown as long as all interfaces are.
    fits &= turns["interface"].isin(interfaces) | (turns["interface"].isna() & (len(interfaces) == len(INTERFACES)))
    for column, values in more.items():
        if values:
            fits &= turns[column].isin(values)
    return turns if bool(fits.all()) else turns[fits]
