"""Access: who you are here, what you may do and how much of it, the keys of your own programs, and the data folder."""

import streamlit as st

from phi3kit.ui import access_cards, acting, resources, shell

shell.begin("Access")
with shell.errors_shown():
    settings = resources.settings()
    access_cards.who(settings)
    acting.show_outcome()
    rights, limits = st.columns(2)
    with rights:
        access_cards.show_rights(settings)
    with limits:
        access_cards.show_limits(settings)
    access_cards.show_keys(settings)
    access_cards.show_everybody(settings)
    access_cards.show_data_folder(settings)
