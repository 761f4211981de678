"""Usage cards: the parts of the Usage page, each a bordered card.

Knows widgets and their order. What is counted and drawn, the kit knows.
"""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, get_args
from zoneinfo import ZoneInfo

import pandas as pd
import streamlit as st

from phi3kit.ui.shared import resources, shell, theme
from phi3kit.ui.usage import turn_drawer
from phi3kit.ui.usage.filters import Chosen
from phi3kit.usage import budgets, charts, prices, summary
from phi3kit.usage.reader import TurnsReading

Card = Callable[[pd.DataFrame], None]

CHART_CONFIG = {
    "displaylogo": False,
    "modeBarButtons": [["toImage"]],
    "toImageButtonOptions": {"format": "png", "scale": 2, "filename": "phi3kit-usage"},
}
DIMENSIONS = {
    "Wrapper": "wrapper", "Model": "model_uri", "Interface": "interface", "User": "user", "Origin": "origin",
}  # fmt: skip


def state(reading: TurnsReading) -> None:
    """What waits to be written, what is being read, and what in the experiment is no turn."""
    writer = resources.kit().writer.state()
    if writer.waiting:
        turns = f"{shell.counted(writer.waiting, 'turn')} {'waits' if writer.waiting == 1 else 'wait'}"
        if writer.problem:
            again = (
                f" The next try is in {max(writer.next_try_at - time.time(), 0):,.0f} s." if writer.next_try_at else ""
            )
            st.warning(
                f"**{turns} to be written to MLflow.** {shell.plain(writer.problem)}{again}",
                icon=":material/hourglass_top:",
            )
        else:
            st.caption(f"{turns} to be written to MLflow.")
    if reading.error:
        shell.show_error(reading.error, "MLflow was not read; what was read before is shown.")
    if reading.progress:
        _await_news()


@st.fragment(run_every=1.0)
def _await_news() -> None:
    """Runs only while turns are being read; the page is run again once, when they are there."""
    reading = resources.kit().reader.current(max_age_s=1e9, wait_s=0)
    if reading.progress is None:
        st.rerun()
    count = f": {reading.progress.runs:,} runs" if reading.progress.runs else ""
    st.caption(f":material/sync: Comparing with MLflow{count}")


def odd_runs(reading: TurnsReading) -> None:
    """What is in the experiment and is no turn."""
    snapshot = reading.snapshot
    if snapshot is None:
        return
    at = datetime.fromtimestamp(snapshot.read_at, ZoneInfo(shell.timezone()))
    read = f"Read from MLflow at {at:%H:%M:%S}. Times are {shell.timezone()}."
    if snapshot.odd:
        kinds = ", ".join(f"{count:,} {reason}" for reason, count in snapshot.odd.items())
        read += f" Not counted: runs of other programs in this experiment ({kinds})."
    st.caption(shell.plain(read))


def meters() -> None:
    """How much of today's budgets is spent; nothing without budgets."""
    shared = resources.kit()
    settings, actor = resources.settings(), resources.actor()
    others = shared.outbox.spenders(budgets.today()) if actor.may("administer") else ()
    users = list(dict.fromkeys([actor.name, *others]))[:10]
    found = budgets.meters(settings.limits, shared.outbox, users)
    if not found:
        return
    with st.container(border=True):
        renews = datetime.fromtimestamp(found[0].renews_at, ZoneInfo(shell.timezone()))
        st.markdown("**Today's token budgets**")
        for meter in found:
            whose = "Everybody" if meter.user is None else shell.plain(meter.user)
            left = meter.budget_tokens - meter.spent_tokens
            rest = f"{left:,} left" if left > 0 else ":red[spent: new turns are refused]"
            st.progress(meter.share, f"{whose}: {meter.spent_tokens:,} of {meter.budget_tokens:,} tokens · {rest}")
        st.caption(f"They renew at {renews:%H:%M}. Turns that were asked from this machine count.")


def metrics(chosen: Chosen) -> None:
    """The sums, and how they changed against the period before."""
    sums = summary.totals(chosen.turns)
    was = None if chosen.before is None else summary.totals(chosen.before)
    own = prices.load(resources.settings().home)

    def metric(label: str, text: str, now: float | None, before: float | None, colour: str = "off") -> None:
        changed = summary.change(now, before)
        delta = None if changed is None else 0 if abs(changed) < 0.0005 else f"{changed:+,.0%}"
        st.metric(label, text, delta, delta_color=colour, border=True, height="stretch")  # type: ignore[arg-type]

    earlier = was or summary.NOTHING
    with st.container(horizontal=True):
        metric("Turns", f"{sums.turns:,}", sums.turns, earlier.turns)
        metric("Prompt tokens", f"{sums.prompt_tokens:,}", sums.prompt_tokens, earlier.prompt_tokens)
        metric("Completion tokens", f"{sums.completion_tokens:,}", sums.completion_tokens, earlier.completion_tokens)
        metric("Total tokens", f"{sums.total_tokens:,}", sums.total_tokens, earlier.total_tokens)
        first, speed = sums.time_to_first_token_p95_s, sums.tokens_per_second_median
        was_first, was_speed = earlier.time_to_first_token_p95_s, earlier.tokens_per_second_median
        metric("Time to first token, p95", shell.seconds(first), first, was_first, "inverse")
        metric("Tokens/s, median", f"{speed:,.0f}" if speed is not None else "–", speed, was_speed, "normal")
        if own:
            spent = prices.cost(chosen.turns, own)
            was_spent = None if chosen.before is None else prices.cost(chosen.before, own)
            metric("Cost", dollars(spent), spent, was_spent)
    notes = [f"Change against the {chosen.period} before."] if was and was.turns else []
    if sums.cached_prompt_tokens:
        notes.append(f"{sums.cached_prompt_tokens:,} of the prompt tokens were cached.")
    if sums.uncounted_turns:
        whose = "turn of a remote endpoint" if sums.uncounted_turns == 1 else "turns of remote endpoints"
        notes.append(
            f"{sums.uncounted_turns:,} {whose} came without token counts and {'stands' if sums.uncounted_turns == 1 else 'stand'} in no sum."
        )
    if notes:
        st.caption(" ".join(notes))


def beside(turns: pd.DataFrame, left: Card, right: Card) -> None:
    """Two cards side by side, or one under the other where there is no room."""
    for column, card in zip(st.columns(2), (left, right), strict=True):
        with column:
            card(turns)


def over_time(turns: pd.DataFrame) -> None:
    """Tokens over time; a click on a bar lists its turns."""
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.markdown("**Tokens over time**", width="content")
            width = st.segmented_control(
                "A bar is", list(get_args(charts.Width)), default="auto", required=True, key="usage_width",
                bind="query-params", label_visibility="collapsed", format_func=str.capitalize,
            )  # fmt: skip
        timezone = shell.timezone()
        figure = charts.tokens_over_time(turns, theme.palette(), timezone, width)
        points = chart(figure, "over_time", "Prompt and completion tokens over time")
        if points:
            times = sorted({str(point["x"]) for point in points})
            begin, end = pd.Timestamp(times[0]), pd.Timestamp(times[-1]) + pd.Timedelta(charts.bucket(turns, width))
            what = f"from {begin.day} {begin:%b, %H:%M:%S} to {end.day} {end:%b, %H:%M:%S}"
            _these(charts.turns_at(turns, timezone, width, times), what, "over_time")


def by_dimension(turns: pd.DataFrame) -> None:
    """Tokens by what one likes; a click on a bar lists its turns."""
    with st.container(border=True, height="stretch"):
        st.markdown("**Tokens by**")
        by = st.segmented_control(
            "Tokens by", list(DIMENSIONS), default="Wrapper", required=True, key="usage_by", bind="query-params",
            label_visibility="collapsed",
        )  # fmt: skip
        column = DIMENSIONS[by]
        named = _with_labels(turns) if column == "model_uri" else turns
        points = chart(charts.tokens_by(named, column, theme.palette()), "by", f"Tokens by {by.lower()}")
        if points:
            names = {str(point["y"]) for point in points}
            found = turns[charts.names_of(named, column).isin(names)]
            _these(found, f"of {', '.join(sorted(names))}", "by")


def endings(turns: pd.DataFrame) -> None:
    """How turns ended."""
    with st.container(border=True, height="stretch"):
        st.markdown("**Finish reasons and errors**")
        chart(charts.endings(turns, theme.palette()), "endings", "How turns ended, by wrapper", select=False)


def first_tokens(turns: pd.DataFrame) -> None:
    """How long turns waited for their first token."""
    _distribution(turns, "Time to first token", "time_to_first_token_s", "ms")


def speeds(turns: pd.DataFrame) -> None:
    """How fast turns were decoded."""
    _distribution(turns, "Speed", "tokens_per_second", "tokens/s")


def durations(turns: pd.DataFrame) -> None:
    """How long turns took."""
    _distribution(turns, "Duration", "duration_s", "ms")


def _distribution(turns: pd.DataFrame, title: str, measure: str, unit: str) -> None:
    """The spread of a measure, its percentiles, and with a click the turns of a bar."""
    with st.container(border=True, height="stretch"):
        st.markdown(f"**{title}**")
        figure = charts.distribution(turns, measure, unit, theme.palette())
        points = chart(figure, measure, f"{title} by wrapper, and its percentiles")
        _percentiles(turns, measure, unit)
        if points:
            bars = [(figure.data[point["curve_number"]].name, *point["customdata"]) for point in points]
            found = pd.concat([charts.turns_between(turns, measure, unit, *bar) for bar in bars])
            _these(found, f"of {bars[0][0]}, {bars[0][1]:,.3g} to {bars[-1][2]:,.3g} {unit}", measure)


def _percentiles(turns: pd.DataFrame, measure: str, unit: str) -> None:
    table = summary.percentiles(turns, measure)
    cuts = [name for name in table.columns if name.startswith("p")]
    table[cuts] = table[cuts] * (1000 if unit == "ms" else 1)
    formats = "%.0f" if unit == "tokens/s" else "%.1f"
    config = {
        name: st.column_config.NumberColumn(f"{name}, {unit}" if name == cuts[0] else name, format=formats)
        for name in cuts
    }
    config["turns"] = st.column_config.NumberColumn(format="localized")
    st.dataframe(table, hide_index=True, column_config=config, alt="Percentiles by wrapper")


def chart(figure: Any, key: str, alt: str, *, select: bool = True) -> list[dict[str, Any]]:
    """Draw a chart; the points that were clicked."""
    if not select:
        st.plotly_chart(figure, config=CHART_CONFIG, key=f"usage_chart_{key}", alt=alt)
        return []
    event: Any = st.plotly_chart(
        figure, config=CHART_CONFIG, key=f"usage_chart_{key}", alt=alt, on_select="rerun", selection_mode="points"
    )
    return list(event.selection.points)


def _these(turns: pd.DataFrame, what: str, key: str) -> None:
    """The turns of a bar that was clicked."""
    st.markdown(f"**{shell.counted(len(turns), 'turn')}** {shell.plain(what)}")
    turn_drawer.table(turns, f"usage_{key}")


def _with_labels(turns: pd.DataFrame) -> pd.DataFrame:
    """Models by their names: a source, a precision and when it was built say more than an id."""
    labels = {model.model_uri: f"{model.wrapper} · {shell.model_label(model)}" for model in resources.models()}
    return turns.assign(model_uri=turns["model_uri"].map(lambda uri: labels.get(uri, uri), na_action="ignore"))


def dollars(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 1 or amount == 0 else f"${amount:.4f}"
