"""Access: who you are here, what you may do and how much of it, the keys of your own programs, and the data folder."""

import streamlit as st

from phi3kit.ui.access import cards
from phi3kit.ui.shared import actions, resources, shell

shell.begin("Access")
with shell.errors_shown():
    settings = resources.settings()
    cards.who(settings)
    actions.show_outcome()
    rights, limits = st.columns(2)
    with rights:
        cards.show_rights(settings)
    with limits:
        cards.show_limits(settings)
    cards.show_keys(settings)
    cards.show_everybody(settings)
    cards.show_data_folder(settings)
