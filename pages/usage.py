"""Usage: what the logged turns cost, charted."""

import streamlit as st

from phi3kit.ui.shared import actions, resources, shell, steps_taken
from phi3kit.ui.usage import chart_cards, filters, overview, tables

shell.begin("Usage")
with shell.errors_shown():
    reading = resources.reading(whole=filters.whole_requested())
    steps_taken.see("usage")
    actions.show_outcome()
    overview.show_status(reading)
    if reading.turns.empty:
        shell.show_empty(
            "Every turn becomes a run in MLflow, and its tokens are charted here. There are no turns yet.",
            "chat",
            "Start a chat",
        )
    else:
        with st.container(horizontal=True, vertical_alignment="bottom"):
            chosen = filters.choose(reading.turns)
        overview.show_budgets()
        if chosen.turns.empty:
            st.info(
                "No turns match these filters. Choose a longer period or more wrappers.", icon=":material/filter_alt:"
            )
        else:
            turns, beside = chosen.turns, chart_cards.show_beside
            overview.show_totals(chosen)
            chart_cards.show_over_time(chosen)
            beside(turns, chart_cards.show_by_dimension, chart_cards.show_endings)
            beside(turns, chart_cards.show_first_tokens, chart_cards.show_speeds)
            beside(turns, chart_cards.show_durations, tables.show_conversations)
            tables.show_chosen_conversation(turns)
            tables.show_wrappers(turns)
            tables.show_costs(turns)
            tables.show_turns(turns)
    overview.show_source(reading)
