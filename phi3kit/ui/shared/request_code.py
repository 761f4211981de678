"""Request code: one request as code to run, and as JSON, in a dialog."""

import streamlit as st

from phi3kit.conversations.conversation import ChatTurn
from phi3kit.conversations.request_snippets import Snippet, remote_snippets, snippets
from phi3kit.core.records import Served
from phi3kit.endpoints.records import Request
from phi3kit.ui.shared import answers, resources, target_choice


@st.dialog("Code and JSON of this request", width="large", icon=":material/code:")
def show_turn(turn: ChatTurn) -> None:
    """The request of a turn that was made, and its response."""
    assert turn.wrapper is not None  # an imported turn has no such menu
    found = _snippets(turn.request, turn.wrapper, turn.model_uri)
    *tabs, json_tab = st.tabs([*(each.title for each in found), "JSON"])
    for tab, each in zip(tabs, found, strict=True):
        tab.code(each.code, language=each.language, wrap_lines=True)
    with json_tab:
        st.caption("Request")
        st.json(turn.request.body(turn.model_uri), expanded=2)
        st.caption("Response; of a streamed answer, its chunks put together")
        st.json(answers.response_json(turn), expanded=2)


@st.dialog("Code of the next request", width="large", icon=":material/code:")
def show_request(request: Request, wrapper: Served, model_uri: str) -> None:
    """A request that is not made yet."""
    found = _snippets(request, wrapper, model_uri)
    for tab, each in zip(st.tabs([each.title for each in found]), found, strict=True):
        tab.code(each.code, language=each.language, wrap_lines=True)


def _snippets(request: Request, wrapper: Served, model_uri: str) -> list[Snippet]:
    """None for a connection that was removed since."""
    if wrapper != "remote":
        return snippets(request, wrapper, model_uri, resources.settings().tracking_uri)
    remote = next((target.connection for target in target_choice.available() if target.model_uri == model_uri), None)
    return remote_snippets(request, remote) if remote else []
