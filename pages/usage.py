"""Usage: what the logged turns cost, charted."""

import streamlit as st

from phi3kit.ui.shared import resources, shell
from phi3kit.ui.usage import cards, filters, tables

shell.begin("Usage")
with shell.errors_shown():
    reading = resources.reading(whole=filters.all_asked_for())
    st.session_state["seen_usage"] = True
    cards.state(reading)
    if reading.turns.empty:
        shell.empty_state(
            "Every turn becomes a run in MLflow, and its tokens are charted here. There are none yet.",
            "chat",
            "Start a chat",
            ":material/forum:",
        )
    else:
        with st.container(horizontal=True, vertical_alignment="bottom"):
            chosen = filters.choose(reading.turns)
        cards.meters()
        if chosen.turns.empty:
            st.info(
                "No turn fits these filters. Choose a longer period or more wrappers.", icon=":material/filter_alt:"
            )
        else:
            turns, beside = chosen.turns, cards.beside
            cards.metrics(chosen)
            cards.over_time(turns)
            beside(turns, cards.by_dimension, cards.endings)
            beside(turns, cards.first_tokens, cards.speeds)
            beside(turns, cards.durations, tables.wrappers_compared)
            beside(turns, tables.conversations, tables.costs)
            tables.all_turns(turns)
    cards.odd_runs(reading)
