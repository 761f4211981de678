"""Deploy: a chosen model as a server here, a service, containers, or an endpoint of Azure ML."""

import streamlit as st

from phi3kit.deployment import compose, recipes
from phi3kit.ui.deploy.azure_bundle import show_bundle
from phi3kit.ui.deploy.serving import MODEL_KEY, SERVE_ROUTE, port_key, show_recipe, show_server, suggested_port
from phi3kit.ui.shared import actions, elements, permissions, resources, shell, target_choice

ROUTES = ("phi3kit serve", SERVE_ROUTE, "Docker image", "systemd", "Compose", "Azure ML")
PORTS = {"phi3kit serve": 8000, SERVE_ROUTE: 5001, "Docker image": 5001, "systemd": 8000}

shell.begin("Deploy")
st.markdown("Commands and files that serve one model: on this machine, as a service, in containers, or on Azure ML.")
with shell.errors_shown():
    actions.show_outcome()
    permissions.note("serve")
    choices = [choice for choice in resources.choices() if not choice.model.files_gone]
    if not choices:
        shell.show_empty("Deploy a built wrapper from here. Nothing is built yet.", "build", "Build a wrapper")
        st.stop()
    route = elements.choose_one("Serve with", ROUTES, "deploy_route", bind="query-params")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        why = "A version never changes. An alias is resolved when a server starts."
        choice = target_choice.choose_among(choices, "Model", MODEL_KEY, width=420, help=why)
        port = 0
        if usual := PORTS.get(route):
            why = "The default is the first free port."
            suggested = suggested_port(usual)
            port = int(st.number_input("Port", 1, 65_535, suggested, key=port_key(route), width=150, help=why))
    uri, wrapper, settings = choice.plain_uri, choice.model.wrapper, resources.settings()
    if uri != choice.model_uri:
        st.caption(
            "The name has characters that files and shells treat specially, so the model's own URI is used here."
        )
    if route == "phi3kit serve":
        show_recipe(recipes.worker(uri, port, settings))
    elif route == SERVE_ROUTE:
        show_server(choice)
        show_recipe(recipes.scoring_server(uri, wrapper, port, settings))
    elif route == "Docker image":
        show_recipe(recipes.image(uri, wrapper, port, settings))
    elif route == "systemd":
        show_recipe(recipes.unit(uri, port, settings))
    elif route == "Compose":
        show_recipe(compose.compose(choice.model, choice.registered_as))
    else:
        show_bundle(choice)
