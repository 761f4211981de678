"""Share: what leaves the page: a branch as a file, the settings as a link, a request as code and as JSON.

Knows widgets. Does not know how files, links and snippets are written.
"""

from collections.abc import Sequence
from functools import partial
from zoneinfo import ZoneInfo

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from phi3kit.conversations import transcripts
from phi3kit.conversations.chat_settings import ChatSettings
from phi3kit.conversations.conversation import ChatTurn, Conversation
from phi3kit.conversations.request_snippets import remote_snippets, snippets
from phi3kit.core.records import Served
from phi3kit.endpoints.records import Request
from phi3kit.endpoints.targets import Target
from phi3kit.ui.chat import read_only, settings_form
from phi3kit.ui.shared import answers, resources, shell, target_choice, words

_EXAMPLE = "What is the capital of Spain?"  # while nothing was asked


def show_popover(conversation: Conversation, settings: ChatSettings, target: Target) -> None:
    """Everything that leaves the page."""
    with st.popover("Share", icon=":material/ios_share:", help="Export, link, code"):
        shown = conversation.shown
        st.markdown("**Conversation as shown**")
        name, zone = conversation.name, ZoneInfo(words.timezone())
        system = settings.system_prompt
        with st.container(horizontal=True):
            for label, ending, mime in (
                ("Markdown", "md", "text/markdown"),
                ("HTML", "html", "text/html"),
                ("JSON", "json", "application/json"),
            ):
                st.download_button(
                    label,
                    data=partial(_content, ending, name, shown, system, zone),
                    file_name=transcripts.file_name(name, ending),
                    mime=mime,
                    key=f"export_{ending}",
                    disabled=not shown,
                    on_click="ignore",
                    icon=":material/download:",
                )
        st.caption("The JSON file is a list of OpenAI messages. Conversations can import it again.")
        with shell.errors_shown():
            read_only.show_choice(conversation)
        st.markdown("**Link with these settings**")
        settings_form.show_link(settings, target)
        st.markdown("**Request as code**")
        if st.button("Show the code", icon=":material/code:", key="show_code"):
            last = shown[-1] if shown else None
            question, parent = (last.text, last.parent) if last else (_EXAMPLE, None)
            prompt = conversation.messages(system, question, parent)
            _show_request_code(settings.request(prompt), target.wrapper, target.model_uri)


def _content(ending: str, name: str, shown: list[ChatTurn], system: str, zone: ZoneInfo) -> str:
    if ending == "json":
        return transcripts.to_openai(shown, system)
    write = transcripts.to_markdown if ending == "md" else transcripts.to_html
    return write(name, shown, system, zone)


@st.dialog("Code and JSON of this request", width="large", icon=":material/code:", on_dismiss="rerun")
def show_turn_code(turn: ChatTurn) -> None:
    """The request of a turn that was made, and its response."""
    assert turn.wrapper is not None  # an imported turn has no such menu
    with _show_code(turn.request, turn.wrapper, turn.model_uri, ["JSON"])[-1]:
        answers.show_json(turn)


@st.dialog("Code of the next request", width="large", icon=":material/code:", on_dismiss="rerun")
def _show_request_code(request: Request, wrapper: Served, model_uri: str) -> None:
    """A request that is not made yet."""
    _show_code(request, wrapper, model_uri)


def _show_code(request: Request, wrapper: Served, model_uri: str, more: Sequence[str] = ()) -> Sequence[DeltaGenerator]:
    """A tab for each snippet, and for `more`; all tabs. No snippet for a connection that was removed since."""
    if wrapper == "remote":
        known = (target.connection for target in target_choice.available() if target.model_uri == model_uri)
        connection = next(known, None)
        found = remote_snippets(request, connection) if connection else []
    else:
        found = snippets(request, wrapper, model_uri, resources.settings().tracking_uri)
    tabs = st.tabs([*(each.title for each in found), *more])
    for tab, each in zip(tabs, found, strict=False):
        tab.code(each.code, language=each.language, wrap_lines=True)
    return tabs
