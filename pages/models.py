"""Models: what was logged, what is registered under which names, what is loaded; and two of them compared."""

import streamlit as st

from phi3kit.ui.models import comparison, model_cards, version_cards, worker_cards
from phi3kit.ui.shared import actions, elements, permissions, resources, shell

VIEWS = ("Logged models", "Registered", "Compare", "Workers")

shell.begin("Models")
st.markdown("A build creates a logged model. The Model Registry gives it a name, versions and movable aliases.")
with shell.errors_shown():
    actions.show_outcome()
    permissions.note("register")
    models, registered = resources.models(), resources.registered()
    view = elements.choose_view(VIEWS, "models_view")
    if view == "Workers":
        worker_cards.show_workers()
    elif view == "Registered":
        if registered:
            version_cards.show_version(version_cards.choose_version(registered), registered)
        elif models:
            with st.container(border=True):
                st.markdown("No model is registered yet. Register a logged model to give it a name and a version.")
                st.button(
                    "Choose a logged model",
                    icon=":material/bookmark_add:",
                    on_click=st.session_state.update,
                    args=({"models_view": VIEWS[0]},),
                )
        else:
            shell.show_empty("No model is built yet.", "build", "Build a wrapper")
    elif not models:
        shell.show_empty(
            "Every built wrapper is listed here with its size, versions and usage. Nothing is built yet.",
            "build",
            "Build a wrapper",
        )
    elif view == "Compare":
        comparison.show_comparison(resources.choices())
    else:
        model_cards.show_model(model_cards.choose_model(models, registered), registered)
