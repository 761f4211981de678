"""Access: who you are here, what you may do and how much of it, keys for your own programs, and the data folder."""

import streamlit as st

from phi3kit.ui.access import account, keys
from phi3kit.ui.shared import actions, resources, shell

shell.begin("Access")
with shell.errors_shown():
    actor, settings = resources.actor(), resources.settings()
    account.show_person(actor, settings)
    actions.show_outcome()
    rights, limits = st.columns(2)
    with rights:
        account.show_rights(actor)
    with limits:
        account.show_limits(actor, settings)
    keys.show_keys(actor, settings)
    account.show_everybody(actor, settings)
    account.show_data_folder(actor, settings)
