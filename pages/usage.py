"""Usage: what the logged turns cost, charted."""

import streamlit as st

from phi3kit.records import WRAPPERS
from phi3kit.ui import resources, shell, theme
from phi3kit.usage import charts, export, reader

PERIODS = {"24 hours": "24h", "7 days": "7d", "30 days": "30d", "All": "all"}
COLUMNS = ["at", "wrapper", "interface", "prompt_tokens", "completion_tokens", "total_tokens"]
COLUMNS += ["time_to_first_token_s", "tokens_per_second", "finish_reason", "origin", "user"]

shell.begin("Usage")
with shell.errors_shown():
    everything = resources.turns()
    st.session_state["seen_usage"] = True
    if everything.empty:
        shell.empty_state(
            "Every turn becomes a run in MLflow, and its tokens are charted here. There are none yet.",
            "chat",
            "Start a chat",
            ":material/forum:",
        )
    else:
        with st.container(horizontal=True, vertical_alignment="bottom"):
            period = st.segmented_control("Period", list(PERIODS), default="7 days", required=True)
            wrappers = st.pills("Wrapper", WRAPPERS, selection_mode="multi", default=WRAPPERS)
            interfaces = st.pills("Interface", ["openai", "raw"], selection_mode="multi", default=["openai", "raw"])
            if st.button("Refresh", icon=":material/refresh:", help="Read the logged turns again."):
                resources.forget_lists()
                st.rerun()
        turns = reader.since(everything, PERIODS[period])
        turns = turns[turns["wrapper"].isin(wrappers) & turns["interface"].isin(interfaces)]
        if turns.empty:
            st.info(
                "No turn fits these filters. Choose a longer period or more wrappers.", icon=":material/filter_alt:"
            )
            st.stop()
        sums, palette, timezone = charts.totals(turns), theme.palette(), shell.timezone()
        with st.container(horizontal=True):
            st.metric("Turns", f"{sums.turns:,}", border=True)
            st.metric("Prompt tokens", f"{sums.prompt_tokens:,}", border=True)
            st.metric("Completion tokens", f"{sums.completion_tokens:,}", border=True)
            st.metric("Total tokens", f"{sums.total_tokens:,}", border=True)
            st.metric("Time to first token, p95", shell.seconds(sums.time_to_first_token_p95_s), border=True)
            speed = sums.tokens_per_second_median
            st.metric("Tokens/s, median", f"{speed:,.0f}" if speed is not None else "–", border=True)
        with st.container(border=True):
            st.markdown("**Tokens over time**")
            figure = charts.tokens_over_time(turns, palette, timezone)
            st.plotly_chart(figure, config=shell.CHART_CONFIG, alt="Prompt and completion tokens over time")
        for column, by in zip(st.columns(2), ("wrapper", "interface"), strict=True):
            with column, st.container(border=True):
                st.markdown(f"**Tokens by {by}**")
                figure = charts.tokens_by(turns, by, palette)
                st.plotly_chart(figure, config=shell.CHART_CONFIG, key=f"by_{by}", alt=f"Tokens by {by}")
        measures = (("time_to_first_token_s", "Time to first token", "ms"), ("tokens_per_second", "Speed", "tokens/s"))
        for column, (measure, title, unit) in zip(st.columns(2), measures, strict=True):
            with column, st.container(border=True):
                st.markdown(f"**{title}**")
                figure = charts.by_wrapper(turns, measure, unit, palette)
                st.plotly_chart(figure, config=shell.CHART_CONFIG, key=measure, alt=f"{title} by wrapper")
        with st.container(border=True):
            with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
                st.markdown("**Turns**", width="content")
                st.download_button(
                    "CSV",
                    export.to_csv(turns),
                    file_name="phi3kit-usage.csv",
                    mime="text/csv",
                    icon=":material/download:",
                    on_click="ignore",
                    help="Exactly the turns that are filtered here, with every column; times in UTC.",
                )
            st.dataframe(
                turns[COLUMNS],
                hide_index=True,
                column_config={
                    "at": st.column_config.DatetimeColumn("time", format="D MMM, HH:mm:ss", timezone=timezone),
                    **{f"{part}_tokens": part for part in ("prompt", "completion", "total")},
                    "finish_reason": "finish",
                    "time_to_first_token_s": st.column_config.NumberColumn("first token, s", format="%.3f"),
                    "tokens_per_second": st.column_config.NumberColumn("tokens/s", format="%.0f"),
                },
            )
