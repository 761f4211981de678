"""Request code: one request as code to run, and as JSON, in a dialog."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import streamlit as st

from phi3kit.client import Request
from phi3kit.conversation import ChatTurn
from phi3kit.records import WrapperName
from phi3kit.request_snippets import WORKER_URL, snippets
from phi3kit.ui import resources, talk


@st.dialog("Code and JSON of this request", width="large", icon=":material/code:")
def show_turn(turn: ChatTurn) -> None:
    """The request of a turn that was made, and its response."""
    assert turn.wrapper is not None  # an imported turn has no such menu
    *tabs, json_tab = st.tabs([*_titles(turn.request, turn.wrapper, turn.model_uri), "JSON"])
    _show_code(tabs, turn.request, turn.wrapper, turn.model_uri)
    with json_tab:
        st.caption("Request")
        st.json(turn.request.body(turn.model_uri), expanded=2)
        st.caption("Response; of a streamed answer, its chunks put together")
        st.json(talk.response_json(turn), expanded=2)


@st.dialog("Code of the next request", width="large", icon=":material/code:")
def show_request(request: Request, wrapper: WrapperName, model_uri: str) -> None:
    """A request that is not made yet."""
    _show_code(st.tabs(_titles(request, wrapper, model_uri)), request, wrapper, model_uri)


def _titles(request: Request, wrapper: WrapperName, model_uri: str) -> list[str]:
    return [each.title for each in snippets(request, wrapper, model_uri, "")]


def _show_code(tabs: Sequence[AbstractContextManager[Any]], request: Request, wrapper: WrapperName, uri: str) -> None:
    address = st.session_state.get("code_address") or WORKER_URL
    for tab, each in zip(
        tabs, snippets(request, wrapper, uri, resources.kit().settings.tracking_uri, address.rstrip("/")), strict=True
    ):
        with tab:
            st.code(each.code, language=each.language, wrap_lines=True)
