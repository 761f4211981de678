"""Access: who you are here, what you may do and how much of it, and the keys of your own programs."""

import streamlit as st

from phi3kit.ui import access_cards, acting, resources, shell

shell.begin("Access")
with shell.errors_shown():
    settings = resources.settings()
    access_cards.who(settings)
    acting.show_outcome()
    with st.container(horizontal=True):
        access_cards.show_rights(settings)
        access_cards.show_limits(settings)
    access_cards.show_keys(settings)
    access_cards.show_everybody(settings)
