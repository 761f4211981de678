"""Share: a conversation's branch as a file, the page's settings as a link, the request as code."""

from functools import partial
from zoneinfo import ZoneInfo

import streamlit as st

from phi3kit.conversations import transcripts
from phi3kit.conversations.chat_settings import ChatSettings
from phi3kit.conversations.conversation import ChatTurn, Conversation
from phi3kit.endpoints.targets import Target
from phi3kit.ui.chat import settings_form
from phi3kit.ui.shared import request_code, shell

_EXAMPLE = "What is the capital of Spain?"  # when nothing was asked yet


def popover(conversation: Conversation, settings: ChatSettings, target: Target) -> None:
    """Everything that leaves the page."""
    with st.popover("Share", icon=":material/ios_share:", help="Export, link, code"):
        shown = conversation.shown
        st.markdown("**The conversation as it is shown**")
        name, zone = conversation.name, ZoneInfo(shell.timezone())
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
        st.caption("JSON is a list of OpenAI messages; Conversations imports it again.")
        st.markdown("**A link with these settings**")
        settings_form.link(settings, target)
        st.markdown("**The request as code**")
        if st.button("Show the code", icon=":material/code:", key="show_code"):
            last = shown[-1] if shown else None
            asked = last.text if last else _EXAMPLE
            prompt = conversation.messages(system, asked, last.parent if last else None)
            request_code.show_request(settings.request(prompt), target.wrapper, target.model_uri)


def _content(ending: str, name: str, shown: list[ChatTurn], system: str, zone: ZoneInfo) -> str:
    if ending == "json":
        return transcripts.to_openai(shown, system)
    write = transcripts.to_markdown if ending == "md" else transcripts.to_html
    return write(name, shown, system, zone)
