"""Access: who you are here, what you may do and how much of it, the keys of your own programs, and the data folder."""

import streamlit as st

from phi3kit.ui.access import cards
from phi3kit.ui.shared import actions, resources, shell

shell.begin("Access")
with shell.errors_shown():
    actor, settings = resources.actor(), resources.settings()
    cards.who(actor, settings)
    actions.show_outcome()
    rights, limits = st.columns(2)
    with rights:
        cards.show_rights(actor, settings)
    with limits:
        cards.show_limits(actor, settings)
    cards.show_keys(actor, settings)
    cards.show_everybody(actor, settings)
    cards.show_data_folder(actor, settings)
