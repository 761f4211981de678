"""Serving: a recipe's commands and files, and `mlflow models serve` started, watched and asked here.

Knows widgets. Does not know what a recipe says or how a server is started.
"""

import json
import time
from functools import partial

import streamlit as st

from phi3kit.core.processes import log_tail
from phi3kit.deployment import recipes, servers
from phi3kit.deployment.recipes import Recipe
from phi3kit.deployment.servers import ServerStatus
from phi3kit.tracking.registry import ModelChoice
from phi3kit.ui.shared import actions, elements, permissions, resources, shell, theme, words
from phi3kit.ui.shared.literal import literal

_NEEDS = {"docker": "needs Docker", "root": "needs root"}
_LOG_LINES = 30
SERVE_ROUTE = "mlflow models serve"
MODEL_KEY = "deploy_model"  # in the session: the chosen model's URI


def port_key(route: str) -> str:
    """In the session: the port that a way to serve shall listen on."""
    return f"port_{route}"


def suggested_port(wanted: int) -> int:
    """A free port. It stays the same for the session, also while a server of ours listens on it."""
    key = f"suggested_port_{wanted}"
    if key not in st.session_state:
        st.session_state[key] = servers.first_free_port(wanted)
    return int(st.session_state[key])


def show_recipe(recipe: Recipe) -> None:
    """Commands in order, files with their download, notes."""
    with st.container(border=True):
        st.markdown(f"**{recipe.title}**  \n{recipe.sentence}")
        for number, step in enumerate(recipe.steps, start=1):
            needs = f" :gray-badge[{_NEEDS[step.needs]}]" if step.needs else ""
            st.markdown(f"{number}. {step.what}{needs}")
            st.code(step.command, language=None, wrap_lines=True)
        for file in recipe.files:
            with st.expander(literal(file.name), icon=":material/description:", expanded=len(recipe.files) == 1):
                st.download_button(
                    "Download",
                    file.text,
                    file_name=file.name,
                    mime="text/plain",
                    icon=":material/download:",
                    on_click="ignore",
                    key=f"file_{file.name}",
                )
                st.code(file.text, language=file.syntax if file.syntax != "text" else None, wrap_lines=True)
        for note in recipe.notes:
            st.caption(note)


def show_server(choice: ModelChoice) -> None:
    """The server of one model, or the button that starts it."""
    status, running, actor = _status_of(choice), resources.kit().servers, resources.actor()
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.markdown("**Try it here**  \nStart the same command as a process of this app.", width="content")
            if status:
                stop = partial(running.stop, choice.model.model_uri, actor)
                permissions.button(
                    "Stop",
                    "serve",
                    icon=":material/stop_circle:",
                    on_click=actions.attempt,
                    args=(stop, "Stopped"),
                    key="stop",
                )
            else:
                permissions.button(
                    "Start", "serve", type="primary", icon=":material/play_arrow:", on_click=_start, key="start"
                )
        if status and status.state == "starting":
            _watch_start(choice)
        elif status:
            _show_status(status)
            if status.state == "ready":
                _show_call(status)


def _start() -> None:
    """Start what is chosen now: a choice and a click may come to one run, and the page was drawn before both."""
    uri, port = str(st.session_state[MODEL_KEY]), int(st.session_state[port_key(SERVE_ROUTE)])
    start = partial(resources.kit().servers.start, uri, resources.actor(), port)
    actions.attempt(start, f"Starting on port {port}")


@st.fragment(run_every="1s")
def _watch_start(choice: ModelChoice) -> None:
    """The server until it is ready or has ended; then the page runs once more, without a timer."""
    status = _status_of(choice)
    if status and status.state == "starting":
        _show_status(status)
    else:
        st.rerun()


def _show_status(status: ServerStatus) -> None:
    st.markdown(f"{theme.badge(status.wrapper)} {words.state(status.state)} · {status.url}")
    if status.state == "ended":
        st.error(
            "See its log for the reason.\n\nStop it and start it again, on another port if this one is in use.",
            title=f"The server stopped with exit code {status.exit_code}.",
            icon=":material/error:",
        )
    elif status.state == "starting":
        st.caption(f"MLflow is loading the model · {words.duration(time.time() - status.started_at)}")
    if not permissions.may("serve"):  # what others sent may stand in the log
        return
    with st.expander("Log", expanded=status.state == "ended"):
        elements.scrolled_code("\n".join(log_tail(status.log_file, _LOG_LINES)) or "No log output yet.", 200)


def _show_call(status: ServerStatus) -> None:
    native = json.dumps(recipes.native_input(status.wrapper), ensure_ascii=False, indent=2)
    body = st.text_area("Request", native, height=180, key=f"call_{status.wrapper}")
    if permissions.button("Send", "invoke", icon=":material/send:", key="send_call"):
        with shell.errors_shown(), st.spinner("Waiting for the answer"):
            reply = resources.kit().servers.ask(status, body or "", resources.actor())
            mark = ":green-badge" if reply.status == 200 else ":red-badge"
            st.markdown(f"{mark}[{reply.status}] {words.seconds(reply.seconds)}")
            try:
                st.json(json.loads(reply.text))
            except (ValueError, RecursionError):
                st.code(reply.text, language=None, wrap_lines=True)


def _status_of(choice: ModelChoice) -> ServerStatus | None:
    found = (each for each in resources.kit().servers.statuses() if each.model_uri == choice.model.model_uri)
    return next(found, None)
