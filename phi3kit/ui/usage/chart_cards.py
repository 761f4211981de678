"""Chart cards: the charts of the Usage page, each in a card; a click on a bar lists its turns.

Knows widgets. Does not know how a figure is made or turns are counted.
"""

import html
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import pandas as pd
import streamlit as st

from phi3kit.ui.shared import elements, resources, theme, words
from phi3kit.ui.shared.literal import literal
from phi3kit.ui.usage import turn_drawer
from phi3kit.ui.usage.filters import Chosen
from phi3kit.usage import charts, summary

Card = Callable[[pd.DataFrame], None]

_PICTURE = {"format": "png", "scale": 2, "width": 1000}  # pixels before they are doubled
_LOWEST_PICTURE = 500
_SPEED = " tokens/s"
_FEW_BARS = 3  # whose names are said
_DIMENSIONS = {
    "Wrapper": "wrapper", "Model": "model_uri", "Interface": "interface", "User": "user", "Origin": "origin",
}  # fmt: skip


def show_beside(turns: pd.DataFrame, left: Card, right: Card) -> None:
    """Two cards side by side, or one under the other where there is no room."""
    for column, card in zip(st.columns(2), (left, right), strict=True):
        with column:
            card(turns)


def show_over_time(chosen: Chosen) -> None:
    """Tokens over time; a click on a bar lists its turns."""
    turns = chosen.turns
    with st.container(border=True):
        width = elements.choose_one(
            "Bar width", get_args(charts.Width), "usage_width", default="auto", bind="query-params",
            label_visibility="collapsed", format_func=str.capitalize,
        )  # fmt: skip
        axis = charts.time_axis(turns, words.timezone(), width, chosen.begin, chosen.now)
        figure = charts.tokens_over_time(turns, theme.palette(), axis)
        bars = show_bars(figure, "over_time", "Prompt and completion tokens over time", "time")
        if bars:
            begins = charts.bars_at(axis, [place for _, place in bars])
            names = [charts.interval(begin, begin + axis.bar) for begin in begins]
            show_turns_of(charts.turns_at(turns, axis, begins), names, "over_time")


def show_by_dimension(turns: pd.DataFrame) -> None:
    """Tokens by wrapper, model, interface, user or origin; a click on a bar lists its turns."""
    with st.container(border=True, height="stretch"):
        by = elements.choose_one(
            "Group tokens by", _DIMENSIONS, "usage_by", bind="query-params", label_visibility="collapsed"
        )
        column = _DIMENSIONS[by]
        named = _with_labels(turns) if column == "model_uri" else turns
        figure = charts.tokens_by(named, column, theme.palette(), by.lower())
        bars = show_bars(figure, "by", f"Prompt and completion tokens by {by.lower()}", by.lower())
        if bars:
            names = [place for _, place in bars]
            show_turns_of(turns[charts.names_of(named, column).isin(names)], names, "by")


def show_endings(turns: pd.DataFrame) -> None:
    """How turns ended; a click on a bar lists its turns."""
    with st.container(border=True, height="stretch"):
        figure = charts.endings(turns, theme.palette())
        bars = show_bars(figure, "endings", "How turns ended, by wrapper", "ending")
        if bars:
            names = [place for _, place in bars]
            show_turns_of(charts.turns_ended(turns, names), names, "endings")


def _show_distribution(turns: pd.DataFrame, measure: str) -> None:
    """The spread of a measure, its percentiles, and with a click the turns of a bar."""
    with st.container(border=True, height="stretch"):
        figure = charts.distribution(turns, measure, theme.palette())
        title = figure.layout.title.text
        bars = show_bars(figure, measure, f"{title} by wrapper", title.lower())
        _show_percentiles(turns, measure, title)
        if bars:
            names, found = [], []
            for wrapper, place in bars:
                low, high = charts.bin_at(turns, measure, float(place))
                names.append(", ".join(filter(None, [wrapper, charts.between(measure, low, high)])))
                found += list(charts.turns_between(turns, measure, wrapper, low, high).index)
            show_turns_of(turns[turns.index.isin(found)], names, measure)


def _show_percentiles(turns: pd.DataFrame, measure: str, title: str) -> None:
    table = summary.percentiles(turns, measure)
    cuts = [name for name in table.columns if name.startswith("p")]
    table[cuts] = table[cuts].map(lambda value: charts.measured(measure, value).removesuffix(_SPEED))
    unit = "" if measure.endswith("_s") else f",{_SPEED}"
    config: dict[str, Any] = {name: st.column_config.TextColumn(name + unit, alignment="right") for name in cuts[:1]}
    config |= {name: st.column_config.TextColumn(name, alignment="right") for name in cuts[1:]}
    config["turns"] = st.column_config.NumberColumn(format="%,d")
    st.dataframe(table, hide_index=True, column_config=config, alt=f"{title}: percentiles by wrapper")


def show_bars(figure: Any, key: str, alt: str, bar: str) -> list[tuple[str | None, str]]:
    """Draw a chart and, behind a button, its bars as a table; the bars that are chosen in either, by series and place.

    No series: the whole row of the table. bar: what the bars are by. Its saved picture is named by its title.
    """
    title = figure.layout.title.text
    name = f"phi3kit {title}".lower().replace(" ", "-")
    picture = {**_PICTURE, "height": max(_LOWEST_PICTURE, figure.layout.height), "filename": name}
    config = {"displaylogo": False, "modeBarButtons": [["toImage"]], "toImageButtonOptions": picture}
    event: Any = st.plotly_chart(
        figure, config=config, key=f"usage_chart_{key}", alt=alt, on_select="rerun", selection_mode="points"
    )
    chosen: list[tuple[str | None, str]] = []
    for point in event.selection.points:
        series = figure.data[point["curve_number"]]
        chosen.append((series.name, str(point["y" if series.orientation == "h" else "x"])))
    row = _choose_bar(figure, key, title, bar)
    return chosen if row is None else [*chosen, (None, row)]


def _choose_bar(figure: Any, key: str, title: str, bar: str) -> str | None:
    """The bars of a chart as a table; the place of the chosen row."""
    table = charts.as_table(figure)
    places, rows_key = [str(place) for place in table.index], f"usage_bars_{key}"
    if not places:
        return None
    # Not a popover: those are at the end of the page for who goes by keyboard.
    expander = st.expander(
        f"{title} as a table", icon=":material/table_rows:", key=f"usage_table_{key}", on_change="rerun"
    )
    if expander.open:
        with expander:
            columns: dict[str, Any] = {name: st.column_config.NumberColumn(format="%,d") for name in table.columns}
            columns["bar"] = st.column_config.TextColumn(bar, pinned=True)
            elements.choose_row(table, places, rows_key, f"{title} as a table", columns)
            st.caption("Select a row to list its turns under the chart.")
    return elements.chosen_row(places, rows_key)


def show_turns_of(turns: pd.DataFrame, bars: list[str], key: str) -> None:
    """The turns of the bars that were chosen. bars: their labels."""
    names = list(dict.fromkeys(map(html.unescape, bars)))
    what = ", ".join(names) if len(names) <= _FEW_BARS else words.counted(len(names), "bar")
    st.markdown(f"**{words.counted(len(turns), 'turn')}** of {literal(what, inside=True)}")
    turn_drawer.show_table(turns, f"usage_{key}", f"Turns of {what}")


def _with_labels(turns: pd.DataFrame) -> pd.DataFrame:
    """Models by their names: a source, a precision and when it was built say more than an id."""
    names = resources.model_names()
    wrappers = turns.drop_duplicates("model_uri").set_index("model_uri")["wrapper"]
    labels = {uri: f"{wrapper} · {names[uri]}" for uri, wrapper in wrappers.items() if uri in names}
    return turns.assign(model_uri=turns["model_uri"].map(lambda uri: labels.get(uri, uri), na_action="ignore"))


show_first_tokens = partial(_show_distribution, measure="time_to_first_token_s")
show_speeds = partial(_show_distribution, measure="tokens_per_second")
show_durations = partial(_show_distribution, measure="duration_s")
