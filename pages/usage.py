"""Usage: what the logged turns cost, charted."""

import streamlit as st

from phi3kit.ui import resources, shell, usage_cards, usage_filters, usage_tables

shell.begin("Usage")
with shell.errors_shown():
    reading = resources.reading(whole=usage_filters.all_asked_for())
    st.session_state["seen_usage"] = True
    usage_cards.state(reading)
    if reading.turns.empty:
        shell.empty_state(
            "Every turn becomes a run in MLflow, and its tokens are charted here. There are none yet.",
            "chat",
            "Start a chat",
            ":material/forum:",
        )
    else:
        with st.container(horizontal=True, vertical_alignment="bottom"):
            chosen = usage_filters.choose(reading.turns)
        usage_cards.meters()
        if chosen.turns.empty:
            st.info(
                "No turn fits these filters. Choose a longer period or more wrappers.", icon=":material/filter_alt:"
            )
        else:
            turns, beside = chosen.turns, usage_cards.beside
            usage_cards.metrics(chosen)
            usage_cards.over_time(turns)
            beside(turns, usage_cards.by_dimension, usage_cards.endings)
            beside(turns, usage_cards.first_tokens, usage_cards.speeds)
            beside(turns, usage_cards.durations, usage_tables.wrappers_compared)
            beside(turns, usage_tables.conversations, usage_tables.costs)
            usage_tables.all_turns(turns)
    usage_cards.odd_runs(reading)
