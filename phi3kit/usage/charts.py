"""Charts: the table of turns as Plotly figures, and the turns of each bar.

Knows turns, colours and axes. Reads no store, draws on no page.
"""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from zlib import crc32

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from phi3kit.usage.summary import REST, few, outcome_of, outcomes, served, served_by

Width = Literal["auto", "hour", "day", "week"]
WIDTHS: dict[Width, str] = {"hour": "1h", "day": "1D", "week": "7D"}

_FEWEST_BARS = 24  # that a chart has room for
_MOST_BARS = 2000  # of one chart: a year is not drawn by hours
_BINS_A_DECADE, _MOST_BINS = 16, 300
_LONGEST_LABEL = 120  # characters
_LOW = 290  # pixels, the height of a chart that is one of several


@dataclass(frozen=True)
class Palette:
    """Colours by meaning."""

    transformers: str
    onnx: str
    prompt: str
    completion: str
    text: str
    grid: str
    cached: str = "#8791a3"
    neutral: str = "#7a8699"  # a remote endpoint, another program
    background: str = "rgba(0,0,0,0)"  # of a saved image

    def of(self, wrapper: str) -> str:
        """A wrapper's colour; the neutral one for anything else."""
        return {"transformers": self.transformers, "onnx": self.onnx}.get(wrapper, self.neutral)


@dataclass(frozen=True)
class TimeAxis:
    """The time that a chart shows, and how long a bar of it is.

    Times are on the viewer's clock and without a zone: Plotly shows times with one as UTC.
    """

    begin: pd.Timestamp
    end: pd.Timestamp
    width: str  # of a bar, as pandas writes it
    timezone: str

    @property
    def bar(self) -> pd.Timedelta:
        """The length of a bar."""
        return pd.Timedelta(self.width)


def time_axis(
    turns: pd.DataFrame, timezone: str, width: Width, begin: pd.Timestamp | None, now: pd.Timestamp
) -> TimeAxis:
    """The axis from a period's begin until now. begin: None: from the first turn to the last, with room around few bars.

    Its ends are moved by a quarter of a bar at most, a day at most: a chart is drawn anew, and what was clicked is forgotten,
    only so often, and of each bar with turns a part is seen.
    """
    at = _on_clock(turns["at"], timezone)
    # Other machines' clocks may be ahead, but a turn of the far future must not make the bars a year wide.
    now = min(max([_clock(now, timezone), *at.nlargest(1)]), _clock(now, timezone) + pd.Timedelta("1D"))
    if begin is not None:
        axis_begin = _clock(begin, timezone)
        chosen = bucket(now - axis_begin, width)
        step = _step(chosen)
        return TimeAxis(axis_begin.floor(step), now.ceil(step), chosen, timezone)
    chosen = bucket(at.max() - at.min() if len(at) else pd.Timedelta(0), width)
    length, until = pd.Timedelta(chosen), now.ceil(_step(chosen))
    bars = _beginnings(at, chosen)
    first, last = (bars.min(), bars.max() + length) if len(bars) else (until, until)
    room = max(_FEWEST_BARS * length - (last - first), pd.Timedelta(0))
    end = min(last + room / 2, until)
    return TimeAxis(min(first, end - _FEWEST_BARS * length), end, chosen, timezone)


def bucket(shown: pd.Timedelta, width: Width = "auto") -> str:
    """The width of a bar: the chosen one unless it gives too many bars, else one that gives at most 80, mostly over 12.

    shown: the time that is shown. A week where years are shown, and a year where it is decades.
    """
    if width in WIDTHS and shown <= _MOST_BARS * pd.Timedelta(WIDTHS[width]):
        return WIDTHS[width]
    widths = ("1s", "5s", "15s", "1min", "5min", "15min", "1h", "6h", "1D", "7D")
    longest = "7D" if shown <= _MOST_BARS * pd.Timedelta("7D") else "364D"
    return next((each for each in widths if shown <= 80 * pd.Timedelta(each)), longest)


def tokens_over_time(turns: pd.DataFrame, palette: Palette, axis: TimeAxis) -> go.Figure:
    """Prompt, cached and completion tokens, stacked, by time in the viewer's zone."""
    sums = _parts(turns).groupby(_bars(turns, axis)).sum()
    times = pd.DatetimeIndex(sums.index)
    bar_ms = axis.bar.total_seconds() * 1000
    bars = [
        go.Bar(
            x=times,
            y=sums[name],
            name=name,
            marker=_marker(colour, name),
            width=bar_ms * 0.85,
            offset=bar_ms * 0.075,  # within its hours, not around their beginning
            customdata=sums["total"],
            hovertext=[interval(begin, begin + axis.bar) for begin in times],
            hovertemplate=f"%{{hovertext}}<br>%{{y:,}} {name} tokens<br>%{{customdata:,}} total<extra></extra>",
        )
        for name, colour in _parts_in(sums, palette)
    ]
    xaxis = {
        "type": "date",
        "tickformatstops": _TICKS,
        "title": {"text": f"time, {label(axis.timezone)}"},
        "range": [axis.begin, axis.end],
    }
    return _figure("Tokens over time", bars, palette, xaxis=xaxis, yaxis=_counts("tokens"), barmode="stack")


def interval(begin: pd.Timestamp, end: pd.Timestamp) -> str:
    """When a bar is, in words: a day, some days, or hours of a day."""
    if begin == begin.normalize() and end == end.normalize():
        last = end - pd.Timedelta("1D")
        return _day(begin) if last == begin else f"{_day(begin)} to {_day(last)}"
    clock = "%H:%M" if end - begin >= pd.Timedelta("1min") else "%H:%M:%S"
    return f"{_day(begin)}, {begin:{clock}} to {end:{clock}}"


def _day(at: pd.Timestamp) -> str:
    return f"{at.day} {at:%b %Y}"


def bars_at(axis: TimeAxis, times: Iterable[str]) -> list[pd.Timestamp]:
    """When the bars begin in which some times lie, in order; Plotly names a clicked bar by its middle."""
    return sorted(set(_beginnings(pd.Series(pd.to_datetime(list(times), format="ISO8601")), axis.width)))


def turns_at(turns: pd.DataFrame, axis: TimeAxis, bars: list[pd.Timestamp]) -> pd.DataFrame:
    """The turns of the bars that begin then, on the viewer's clock."""
    return turns[_bars(turns, axis).isin(bars)]


def tokens_by(turns: pd.DataFrame, column: str, palette: Palette, what: str = "") -> go.Figure:
    """Prompt and completion tokens of each value of `column`, most first; beyond a dozen the rest is one bar.

    what: the column's name in the title.
    """
    sums = _parts(turns).groupby(names_of(turns, column)).sum()
    sums = sums.loc[sums["total"].sort_values(ascending=False, kind="stable").index]
    sums = sums.loc[sorted(sums.index, key=lambda name: name == REST)]
    bars = [
        go.Bar(
            y=list(sums.index),
            x=sums[name],
            orientation="h",
            name=name,
            marker=_marker(colour, name),
            hovertext=list(sums.index),
            hovertemplate=f"%{{x:,}} {name} tokens<extra>%{{y}}</extra>",
        )
        for name, colour in _parts_in(sums, palette)
    ]
    xaxis = _counts("tokens")
    yaxis = {"type": "category", "autorange": "reversed", "ticklabeloverflow": "allow"}
    title, height = f"Tokens by {what or column}", _height(len(sums))
    return _figure(title, bars, palette, xaxis=xaxis, yaxis=yaxis, height=height, barmode="stack", bargap=0.45)


def label(text: object) -> str:
    """A text as a figure shows it: Plotly makes links and bold of tags, and values of %{…}."""
    whole = str(text)
    shown = whole if len(whole) <= _LONGEST_LABEL else f"{whole[:_LONGEST_LABEL]}…"
    return html.escape(shown, quote=False).replace("%{", "%&#123;")


def names_of(turns: pd.DataFrame, column: str) -> pd.Series:
    """The bar of `tokens_by` that each turn is in, by its label."""
    return few(turns[column].fillna("unknown").map(label), turns["total_tokens"])


def distribution(turns: pd.DataFrame, column: str, palette: Palette) -> go.Figure:
    """The number of turns of each of `served` by a measure, stacked, in bins of equal width on a logarithmic axis."""
    bars = []
    by = served_by(turns)
    edges = _edges(turns[column])
    lows, highs = edges[:-1], edges[1:]
    names = [between(column, low, high) for low, high in zip(lows, highs, strict=True)]
    for wrapper in served(by):
        values = turns.loc[(by == wrapper) & (turns[column] > 0), column]
        if values.empty:
            continue
        counts, _ = np.histogram(values, edges)
        bar = go.Bar(
            x=np.sqrt(lows * highs),
            y=counts,
            width=highs - lows,
            name=label(wrapper),
            marker=_marker(palette.of(wrapper), wrapper),
            customdata=np.column_stack([lows, highs]),
            hovertext=names,
            hovertemplate=f"%{{y:,}} turns: %{{hovertext}}<extra>{label(wrapper)}</extra>",
        )
        bars.append(bar)
    title, axis_title = _MEASURES[column]
    xaxis = {"type": "log", "title": {"text": axis_title}, **_ticks(column, edges)}
    yaxis = _counts("turns")
    return _figure(title, bars, palette, xaxis=xaxis, yaxis=yaxis, height=_LOW, barmode="stack", bargap=0)


def between(column: str, low: float, high: float) -> str:
    """A bin of a measure in words."""
    return f"{measured(column, low)} to {measured(column, high)}"


def measured(column: str, value: float) -> str:
    """A value of a measure with three digits and its unit: 12.5 ms, 1.78 s, 1.5 min, 250 tokens/s."""
    if not column.endswith("_s"):
        return f"{_digits(value)} tokens/s"
    length, unit = next((length, unit) for length, unit in _TIME_UNITS if value >= length or length == _SHORTEST)
    return f"{_digits(value / length)} {unit}"


def bin_at(turns: pd.DataFrame, column: str, value: float) -> tuple[float, float]:
    """The bin of `distribution` in which a value is."""
    edges = _edges(turns[column])
    above = int(np.clip(np.searchsorted(edges, value, side="right"), 1, len(edges) - 1))
    return float(edges[above - 1]), float(edges[above])


def turns_between(turns: pd.DataFrame, column: str, wrapper: str | None, low: float, high: float) -> pd.DataFrame:
    """The turns of one bar of `distribution`. wrapper: its label; None: those of all."""
    values = turns[column]
    within = (values >= low * (1 - 1e-9)) & (values < high * (1 - 1e-9))
    return turns[within if wrapper is None else within & (served_by(turns).map(label) == wrapper)]


def endings(turns: pd.DataFrame, palette: Palette) -> go.Figure:
    """The number of turns by how they ended, for each wrapper."""
    table = outcomes(turns)
    bars = []
    for wrapper in served(table["wrapper"]):
        of_wrapper = table[table["wrapper"] == wrapper]
        names = list(of_wrapper["outcome"].map(label))
        bar = go.Bar(
            y=names,
            x=of_wrapper["turns"],
            orientation="h",
            name=label(wrapper),
            marker=_marker(palette.of(wrapper), wrapper),
            hovertext=names,
            hovertemplate=f"%{{x:,}} turns<extra>{label(wrapper)}</extra>",
        )
        bars.append(bar)
    yaxis = {"type": "category", "autorange": "reversed"}
    height = _height(table["outcome"].nunique())
    title, xaxis = "Finish reasons and errors", _counts("turns")
    return _figure(title, bars, palette, xaxis=xaxis, yaxis=yaxis, height=height, barmode="stack", bargap=0.45)


def turns_ended(turns: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """The turns of some bars of `endings`, by their labels."""
    return turns[outcome_of(turns).map(label).isin(set(names))]


def tokens_a_conversation(conversations: pd.DataFrame, palette: Palette) -> go.Figure:
    """The number of conversations by their tokens, in bins that double."""
    bars = []
    exponents = _doublings(conversations)
    if len(exponents):
        names = [_doubling(exponent) for exponent in range(exponents.min(), exponents.max() + 1)]
        bar = go.Bar(
            x=names,
            y=exponents.map(_doubling).value_counts().reindex(names, fill_value=0),
            name="conversations",
            marker_color=palette.neutral,
            hovertext=names,
            hovertemplate="%{y:,} conversations: %{x} tokens<extra></extra>",
        )
        bars.append(bar)
    xaxis = {"type": "category", "title": {"text": "tokens of a conversation"}}
    yaxis = _counts("conversations")
    title = "Tokens per conversation"
    return _figure(title, bars, palette, xaxis=xaxis, yaxis=yaxis, height=_LOW, bargap=0.1, showlegend=False)


def conversations_of(conversations: pd.DataFrame, names: Iterable[str]) -> pd.Series:
    """The ids of the conversations in some bars of `tokens_a_conversation`, by their labels."""
    exponents = _doublings(conversations)
    return conversations.loc[exponents.index[exponents.map(_doubling).isin(set(names))], "conversation_id"]


def as_table(figure: go.Figure) -> pd.DataFrame:
    """The bars of a chart: a row for each place where there is one, named in the column `bar`, and a column a series.

    The index is what a clicked bar is named by: its x, or its y where bars are horizontal.
    """
    names: dict[Any, str] = {}
    series: dict[str, dict[Any, int]] = {}
    for bars in figure.data:
        places, lengths = (bars.y, bars.x) if bars.orientation == "h" else (bars.x, bars.y)
        column = series.setdefault(html.unescape(bars.name), {})
        for place, length, name in zip(places, lengths, bars.hovertext, strict=True):
            names.setdefault(place, html.unescape(name))
            column[place] = column.get(place, 0) + int(length)
    columns = {name: [column.get(place, 0) for place in names] for name, column in series.items()}
    there = [any(lengths) for lengths in zip(*columns.values(), strict=True)]
    return pd.DataFrame({"bar": list(names.values()), **columns}, index=list(names)).loc[there]


_PARTS = {"prompt": "prompt", "cached prompt": "cached", "completion": "completion"}
_MEASURES = {  # titles of the chart and of its axis
    "time_to_first_token_s": ("Time to first token", "time to first token"),
    "tokens_per_second": ("Speed", "tokens per second"),
    "duration_s": ("Duration", "duration"),
}
_SHORTEST = 1e-6
_TIME_UNITS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (_SHORTEST, "µs"))
_SHORT_AXIS = 30  # times its lowest value
_SHAPES = {"prompt": "", "cached prompt": "/", "completion": ".", "transformers": "/", "onnx": "", "remote": "x"}
_OTHER_SHAPES = ("\\", "-", "|", "+", ".")  # of other programs' wrappers, all of one colour
_TICKS = [
    {"dtickrange": [None, 60_000], "value": "%H:%M:%S"},
    {"dtickrange": [60_000, 86_400_000], "value": "%H:%M\n%d %b"},
    {"dtickrange": [86_400_000, None], "value": "%d %b"},
]


def _parts(turns: pd.DataFrame) -> pd.DataFrame:
    """The tokens of each turn: prompt tokens that were not cached, cached ones, completion tokens, all."""
    return pd.DataFrame(
        {
            "prompt": turns["prompt_tokens"] - turns["cached_prompt_tokens"],
            "cached prompt": turns["cached_prompt_tokens"],
            "completion": turns["completion_tokens"],
            "total": turns["total_tokens"],
        }
    )


def _parts_in(sums: pd.DataFrame, palette: Palette) -> list[tuple[str, str]]:
    """The parts that a chart has a bar for, and their colours."""
    return [
        (name, getattr(palette, colour))
        for name, colour in _PARTS.items()
        if name != "cached prompt" or sums[name].any()
    ]


def _marker(colour: str, series: str) -> dict[str, Any]:
    """A series' colour and its pattern: series are told apart without colours too."""
    shape = _SHAPES.get(series, _OTHER_SHAPES[crc32(series.encode()) % len(_OTHER_SHAPES)])
    pattern: dict[str, Any] = {"shape": shape, "size": 7, "solidity": 0.25, "fillmode": "overlay"}
    if series == "cached prompt":
        pattern |= {"fillmode": "replace", "solidity": 0.5}  # on nothing: light beside the rest of the prompt
    return {"color": colour, "pattern": pattern}


def _bars(turns: pd.DataFrame, axis: TimeAxis) -> pd.Series:
    """When the bar of each turn begins. An hour that comes twice is one bar."""
    return _beginnings(_on_clock(turns["at"], axis.timezone), axis.width)


def _on_clock(times: pd.Series, timezone: str) -> pd.Series:
    """Times on the viewer's clock, without their zone."""
    return times.dt.tz_convert(timezone).dt.tz_localize(None)


def _clock(at: pd.Timestamp, timezone: str) -> pd.Timestamp:
    """A time on the viewer's clock, without its zone."""
    return at.tz_convert(timezone).tz_localize(None)


def _step(width: str) -> pd.Timedelta:
    """What the ends of an axis are rounded to."""
    return min(pd.Timedelta(width) / 4, pd.Timedelta("1D"))


def _beginnings(times: pd.Series, span: str) -> pd.Series:
    """When the bars of some times begin; a week begins on Monday."""
    if span == "7D":
        times = times - pd.to_timedelta(times.dt.day_of_week, unit="D")
        span = "1D"
    return times.dt.floor(span)


def _counts(what: str) -> dict[str, Any]:
    """An axis that counts something."""
    return {"title": {"text": what}, "tickformat": ","}


def _doublings(conversations: pd.DataFrame) -> pd.Series:
    """The power of two from which on a conversation has tokens, of those that have any."""
    tokens = conversations["total_tokens"]
    return np.log2(tokens[tokens > 0]).astype("int64")


def _doubling(exponent: int) -> str:
    """A bin of `tokens_a_conversation`."""
    return f"{2**exponent:,}–{2 ** (exponent + 1) - 1:,}"


def _edges(values: pd.Series) -> np.ndarray:
    """Borders of bins over all values, equally wide on a logarithmic axis: wider ones where these would be too many."""
    found = values[values > 0]
    if not len(found):
        return np.array([1.0, 2.0])
    first, last = np.log10(found.min()), np.log10(found.max())
    in_a_decade = min(_BINS_A_DECADE, (_MOST_BINS - 2) / max(last - first, 1))
    low, high = np.floor(first * in_a_decade), np.floor(last * in_a_decade) + 1
    return 10.0 ** (np.arange(low, high + 1) / in_a_decade)


def _ticks(column: str, edges: np.ndarray) -> dict[str, Any]:
    """Ticks of a logarithmic axis at 1, 10, 100 of each unit, and at 2 and 5 where it is short; all are labelled."""
    steps = (1, 2, 5) if edges[-1] < _SHORT_AXIS * edges[0] else (1,)
    minor = {"dtick": "D1", "ticks": "outside"}
    if not column.endswith("_s"):
        return {"dtick": "D2" if len(steps) > 1 else 1, "tickformat": ",~g", "minor": minor}
    units = [(length, longest) for (length, _), longest in zip(_TIME_UNITS, (np.inf, 3600, 60, 1, 1e-3), strict=True)]
    at = [
        step * decade * length
        for length, longest in units
        for decade in (1, 10, 100)
        for step in steps
        if step * decade * length < longest
    ]
    return {"tickvals": sorted(at), "ticktext": [measured(column, value) for value in sorted(at)], "minor": minor}


def _digits(value: float) -> str:
    """A number with three digits."""
    return f"{float(f'{value:.3g}'):,g}"


def _height(bars: int) -> int:
    """The height of a chart of horizontal bars, in pixels."""
    return max(250, 130 + 34 * bars)


def _figure(
    title: str,
    bars: Sequence[go.Bar],
    palette: Palette,
    *,
    xaxis: dict[str, Any] | None = None,
    yaxis: dict[str, Any] | None = None,
    height: int = 360,
    **layout: Any,
) -> go.Figure:
    """The bars in every chart's frame, over them the title and then the legend; a saved image has both.

    The layout is one argument: each `update_*` call validates all of it, which took a third of the page's time.
    """
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left", "traceorder": "normal"}
    return go.Figure(
        bars,
        {
            "height": height,
            "margin": {"l": 4, "r": 12, "t": 84 if layout.get("showlegend", True) else 44, "b": 4},
            "title": {"text": title, "x": 0, "y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 12}},
            "legend": legend,
            "showlegend": True,
            "paper_bgcolor": palette.background,
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": palette.text, "size": 12},
            "separators": ".,",
            "dragmode": False,
            "xaxis": {"showgrid": False, "automargin": True, "linecolor": palette.grid, **(xaxis or {})},
            "yaxis": {"gridcolor": palette.grid, "automargin": True, "rangemode": "tozero", **(yaxis or {})},
            **layout,
        },
    )
