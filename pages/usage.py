"""Usage: what the logged turns cost, charted."""

import streamlit as st

from phi3kit.ui import resources, shell, usage_cards, usage_filters, usage_tables

shell.begin("Usage")
with shell.errors_shown():
    with st.container(horizontal=True, vertical_alignment="bottom"):
        filters = st.container(horizontal=True, vertical_alignment="bottom", width="content")
        again = st.button(
            "Refresh",
            icon=":material/refresh:",
            help="Compare every logged turn with MLflow, deleted and changed ones too.",
        )
    reading = resources.reading(whole=again)
    everything = resources.turns()
    st.session_state["seen_usage"] = True
    usage_cards.state(reading)
    if everything.empty:
        shell.empty_state(
            "Every turn becomes a run in MLflow, and its tokens are charted here. There are none yet.",
            "chat",
            "Start a chat",
            ":material/forum:",
        )
    else:
        with filters:
            chosen = usage_filters.choose(everything)
        usage_cards.meters()
        if chosen.turns.empty:
            st.info(
                "No turn fits these filters. Choose a longer period or more wrappers.", icon=":material/filter_alt:"
            )
        else:
            turns = chosen.turns
            usage_cards.metrics(chosen)
            usage_cards.over_time(turns)
            left, right = st.columns(2)
            with left:
                usage_cards.by_dimension(turns)
            with right:
                usage_cards.endings(turns)
            usage_cards.distributions(turns)
            left, right = st.columns(2)
            with left:
                usage_tables.wrappers_compared(turns)
                usage_tables.conversations(turns)
            with right:
                usage_tables.costs(turns)
            usage_tables.all_turns(turns)
    usage_cards.odd_runs(reading)
