"""Deploy: a chosen model as a server here, a service, containers, or an endpoint of Azure ML."""

import streamlit as st

from phi3kit.deployment import compose, recipes
from phi3kit.ui.deploy import cards
from phi3kit.ui.shared import actions, permissions, resources, shell, target_choice

ROUTES = ("phi3kit serve", "mlflow models serve", "Docker image", "systemd", "Compose", "Azure ML")
PORTS = {"phi3kit serve": 8000, "mlflow models serve": 5001, "Docker image": 5001, "systemd": 8000}

shell.begin("Deploy")
st.markdown("Commands and files that serve one model: on this machine, as a service, in containers, or on Azure ML.")
with shell.errors_shown():
    actions.show_outcome()
    permissions.note("serve")
    found = {choice.model_uri: choice for choice in resources.choices() if not choice.model.files_gone}
    if not found:
        shell.empty_state(
            "A built wrapper can be handed over from here. Nothing is built yet.",
            "build",
            "Build a wrapper",
            ":material/deployed_code:",
        )
        st.stop()
    route = st.segmented_control("As", ROUTES, default=ROUTES[0], required=True, key="deploy_route")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        uri = st.selectbox(
            "Model",
            list(found),
            format_func=lambda each: target_choice.choice_label(found[each]),
            key="deploy_model",
            width=420,
            help="A version stays what it is; an alias is followed when a server starts.",
        )
        port = 0
        if route in PORTS:
            suggested = cards.suggested_port(PORTS[route])
            port = int(
                st.number_input(
                    "Port",
                    1,
                    65_535,
                    suggested,
                    key=f"port_{route}",
                    width=150,
                    help="The first free one from the usual one on.",
                )
            )
    choice, settings = found[uri], resources.settings()
    if route == "phi3kit serve":
        cards.show_recipe(recipes.worker(uri, port, settings))
    elif route == "mlflow models serve":
        cards.show_server(choice, port)
        cards.show_recipe(recipes.scoring_server(uri, choice.model.wrapper, port, settings))
    elif route == "Docker image":
        cards.show_recipe(recipes.image(uri, choice.model.wrapper, port, settings))
    elif route == "systemd":
        cards.show_recipe(recipes.unit(uri, port, settings))
    elif route == "Compose":
        cards.show_recipe(compose.compose(choice.model, choice.registered_as))
    else:
        cards.show_azure(choice)
