"""Charts: the table of turns as Plotly figures, and the figures' figures.

Knows turns, colours and axes. Reads no store, draws on no page.
"""

from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from phi3kit.records import WRAPPERS, WrapperName


@dataclass(frozen=True)
class Palette:
    """Colours by meaning."""

    transformers: str
    onnx: str
    prompt: str
    completion: str
    text: str
    grid: str

    def of(self, wrapper: WrapperName) -> str:
        """A wrapper's colour."""
        return self.transformers if wrapper == "transformers" else self.onnx


@dataclass(frozen=True)
class Totals:
    """The numbers above the charts; None where no turn has the measure."""

    turns: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    time_to_first_token_p95_s: float | None
    tokens_per_second_median: float | None


def totals(turns: pd.DataFrame) -> Totals:
    """Sums and quantiles of the turns."""

    def quantile(column: str, share: float) -> float | None:
        values = turns[column].dropna()
        return float(values.quantile(share)) if len(values) else None

    return Totals(
        turns=len(turns),
        prompt_tokens=int(turns["prompt_tokens"].sum()),
        completion_tokens=int(turns["completion_tokens"].sum()),
        total_tokens=int(turns["total_tokens"].sum()),
        time_to_first_token_p95_s=quantile("time_to_first_token_s", 0.95),
        tokens_per_second_median=quantile("tokens_per_second", 0.5),
    )


def bucket(turns: pd.DataFrame) -> str:
    """The width of a bar: what gives at most 80 bars over the period the turns cover, and mostly more than 12."""
    if turns.empty:
        return "1h"
    span = turns["at"].max() - turns["at"].min()
    widths = ("1s", "5s", "15s", "1min", "5min", "15min", "1h", "6h", "1D", "7D")
    return next((width for width in widths if span <= 80 * pd.Timedelta(width)), "7D")


def tokens_over_time(turns: pd.DataFrame, palette: Palette, timezone: str) -> go.Figure:
    """Prompt and completion tokens, stacked, by time in the viewer's zone."""
    width = bucket(turns)
    local = turns.assign(at=turns["at"].dt.tz_convert(timezone))
    sums = local.groupby(local["at"].dt.floor(width, ambiguous=False, nonexistent="shift_forward"))[
        ["prompt_tokens", "completion_tokens", "total_tokens"]
    ].sum()
    # Plotly would show a time with a zone as UTC.
    times = pd.DatetimeIndex(sums.index).tz_localize(None)
    figure = go.Figure()
    for column, colour in (("prompt_tokens", palette.prompt), ("completion_tokens", palette.completion)):
        name = column.removesuffix("_tokens")
        figure.add_bar(
            x=times,
            y=sums[column],
            name=name,
            marker_color=colour,
            width=pd.Timedelta(width).total_seconds() * 1000 * 0.85,
            customdata=sums["total_tokens"],
            hovertemplate=f"%{{y:,}} {name} tokens<br>%{{customdata:,}} in all<extra></extra>",
        )
    figure.update_layout(barmode="stack")
    figure.update_xaxes(type="date", tickformatstops=_TICKS)
    if len(times):
        # Room around few bars: one alone would fill the chart and look like a wall.
        bars = (times[-1] - times[0]) / pd.Timedelta(width)
        margin = pd.Timedelta(width) * max(1.0, (_FEWEST_BARS - bars) / 2)
        figure.update_xaxes(range=[times[0] - margin, times[-1] + margin])
    return _laid_out(figure, palette)


def tokens_by(turns: pd.DataFrame, column: str, palette: Palette) -> go.Figure:
    """Prompt and completion tokens of each value of `column`, side by side."""
    sums = turns.groupby(column)[["prompt_tokens", "completion_tokens"]].sum()
    figure = go.Figure()
    for part, colour in (("prompt_tokens", palette.prompt), ("completion_tokens", palette.completion)):
        figure.add_bar(
            y=[str(value) for value in sums.index],
            x=sums[part],
            orientation="h",
            name=part.removesuffix("_tokens"),
            marker_color=colour,
            hovertemplate="%{x:,} tokens<extra>%{y}</extra>",
        )
    figure.update_layout(barmode="stack", bargap=0.45)
    return _laid_out(figure, palette, height=200)


def by_wrapper(turns: pd.DataFrame, column: str, unit: str, palette: Palette) -> go.Figure:
    """The spread of a measure for each wrapper, on a logarithmic axis: every turn a point over its box."""
    figure = go.Figure()
    scale = 1000.0 if unit == "ms" else 1.0
    for wrapper in WRAPPERS:
        values = turns.loc[turns["wrapper"] == wrapper, column].dropna() * scale
        if len(values):
            figure.add_box(
                x=values,
                name=wrapper,
                marker_color=palette.of(wrapper),
                boxpoints="all" if len(values) <= 300 else "outliers",
                jitter=0.5,
                pointpos=0,
                marker_size=4,
                line_width=1.5,
                hovertemplate=f"%{{x:,.1f}} {unit}<extra>{wrapper}</extra>",
            )
    figure.update_xaxes(type="log", title_text=unit, dtick=1, tickformat=",")
    return _laid_out(figure, palette, height=240)


_FEWEST_BARS = 24  # for which the chart has room
_TICKS = [
    {"dtickrange": [None, 60_000], "value": "%H:%M:%S"},
    {"dtickrange": [60_000, 86_400_000], "value": "%H:%M\n%d %b"},
    {"dtickrange": [86_400_000, None], "value": "%d %b"},
]


def _laid_out(figure: go.Figure, palette: Palette, *, height: int = 320) -> go.Figure:
    figure.update_layout(
        height=height,
        margin={"l": 0, "r": 0, "t": 36, "b": 0},
        legend={
            "orientation": "h",
            "y": 1.02,
            "yanchor": "bottom",
            "x": 0,
            "xanchor": "left",
            "title": None,
            "traceorder": "normal",
        },
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": palette.text, "size": 12},
        separators=".,",
        dragmode=False,
    )
    figure.update_xaxes(showgrid=False, automargin=True, linecolor=palette.grid)
    figure.update_yaxes(gridcolor=palette.grid, automargin=True, rangemode="tozero")
    return figure


@dataclass(frozen=True)
class Faster:
    """The wrapper with the higher median speed, and how many times the other's it is."""

    wrapper: WrapperName
    ratio: float


def faster_wrapper(turns: pd.DataFrame) -> Faster | None:
    """Compare the wrappers' median tokens/s; None until both have answered."""
    medians = turns.groupby("wrapper")["tokens_per_second"].median().dropna()
    if not set(WRAPPERS) <= set(medians.index):
        return None
    wrapper: WrapperName = max(WRAPPERS, key=lambda name: float(medians[name]))
    return Faster(wrapper, float(medians.max() / medians[list(WRAPPERS)].min()))
