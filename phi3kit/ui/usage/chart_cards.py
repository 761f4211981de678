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
            "A bar is", get_args(charts.Width), "usage_width", default="auto", bind="query-params",
            label_visibility="collapsed", format_func=str.capitalize,
        )  # fmt: skip
        axis = charts.time_axis(turns, words.timezone(), width, chosen.begin, chosen.now)
        figure = charts.tokens_over_time(turns, theme.palette(), axis)
        points = show_chart(figure, "over_time", "Prompt and completion tokens over time")
        if points:
            bars = charts.bars_at(axis, [str(point["x"]) for point in points])
            what = f"of {_together([charts.interval(bar, bar + axis.bar) for bar in bars])}"
            _show_turns(charts.turns_at(turns, axis, bars), what, "over_time")


def show_by_dimension(turns: pd.DataFrame) -> None:
    """Tokens by wrapper, model, interface, user or origin; a click on a bar lists its turns."""
    with st.container(border=True, height="stretch"):
        by = elements.choose_one(
            "Group tokens by", _DIMENSIONS, "usage_by", bind="query-params", label_visibility="collapsed"
        )
        column = _DIMENSIONS[by]
        named = _with_labels(turns) if column == "model_uri" else turns
        points = show_chart(
            charts.tokens_by(named, column, theme.palette(), by.lower()), "by", f"Tokens by {by.lower()}"
        )
        if points:
            names = sorted({str(point["y"]) for point in points})
            found = turns[charts.names_of(named, column).isin(names)]
            _show_turns(found, f"of {html.unescape(_together(names))}", "by")


def show_endings(turns: pd.DataFrame) -> None:
    """How turns ended."""
    with st.container(border=True, height="stretch"):
        show_chart(charts.endings(turns, theme.palette()), "endings", "How turns ended, by wrapper", select=False)


def _show_distribution(turns: pd.DataFrame, title: str, measure: str) -> None:
    """The spread of a measure, its percentiles, and with a click the turns of a bar."""
    with st.container(border=True, height="stretch"):
        figure = charts.distribution(turns, measure, theme.palette())
        points = show_chart(figure, measure, f"{title} by wrapper, and its percentiles")
        _show_percentiles(turns, measure)
        if points:
            bars = [(figure.data[point["curve_number"]].name, *point["customdata"]) for point in points]
            found = pd.concat([charts.turns_between(turns, measure, *bar) for bar in bars])
            names = [f"{html.unescape(wrapper)}, {charts.between(measure, low, high)}" for wrapper, low, high in bars]
            _show_turns(found, f"of {_together(names)}", measure)


def _show_percentiles(turns: pd.DataFrame, measure: str) -> None:
    table = summary.percentiles(turns, measure)
    cuts = [name for name in table.columns if name.startswith("p")]
    table[cuts] = table[cuts].map(partial(charts.measured, measure))
    config: dict[str, Any] = {name: st.column_config.TextColumn(name, alignment="right") for name in cuts}
    config["turns"] = st.column_config.NumberColumn(format="%,d")
    st.dataframe(table, hide_index=True, column_config=config, alt="Percentiles by wrapper")


def show_chart(figure: Any, key: str, alt: str, *, select: bool = True) -> list[dict[str, Any]]:
    """Draw a chart; the points that were clicked. Its saved picture is named by its title."""
    on_select: Any = "rerun" if select else "ignore"
    name = f"phi3kit {figure.layout.title.text}".lower().replace(" ", "-")
    picture = {**_PICTURE, "height": max(_LOWEST_PICTURE, figure.layout.height), "filename": name}
    config = {"displaylogo": False, "modeBarButtons": [["toImage"]], "toImageButtonOptions": picture}
    event: Any = st.plotly_chart(
        figure, config=config, key=f"usage_chart_{key}", alt=alt, on_select=on_select, selection_mode="points"
    )
    return list(event.selection.points) if select else []


def _show_turns(turns: pd.DataFrame, what: str, key: str) -> None:
    """The turns of a bar that was clicked."""
    st.markdown(f"**{words.counted(len(turns), 'turn')}** {literal(what, inside=True)}")
    turn_drawer.show_table(turns, f"usage_{key}")


def _together(names: list[str]) -> str:
    """The names of some bars, or how many they are."""
    return ", ".join(names) if len(names) <= _FEW_BARS else words.counted(len(names), "bar")


def _with_labels(turns: pd.DataFrame) -> pd.DataFrame:
    """Models by their names: a source, a precision and when it was built say more than an id."""
    labels = {model.model_uri: f"{model.wrapper} · {words.model_label(model)}" for model in resources.models()}
    return turns.assign(model_uri=turns["model_uri"].map(lambda uri: labels.get(uri, uri), na_action="ignore"))


show_first_tokens = partial(_show_distribution, title="Time to first token", measure="time_to_first_token_s")
show_speeds = partial(_show_distribution, title="Speed", measure="tokens_per_second")
show_durations = partial(_show_distribution, title="Duration", measure="duration_s")
