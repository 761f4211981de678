"""Chat: talk to a logged model or a remote endpoint with OpenAI messages."""

import streamlit as st

from phi3kit.ui.chat import (
    composer,
    messages,
    open_conversation,
    read_only,
    saved_drawer,
    settings_form,
    share,
    suggestions,
)
from phi3kit.ui.shared import announcement, answers, permissions, resources, shell, target_choice


def send(key: str) -> None:
    """Ask what was written or chosen, as the next turn of the branch that the reader saw."""
    text = str(st.session_state.get(key) or "")
    if text.strip():
        open_conversation.say(text)
    elif text:
        open_conversation.note(messages.EMPTY)


shell.begin("Chat")
with shell.errors_shown():
    if token := st.query_params.get(read_only.PARAMETER):
        read_only.show(token)
        st.stop()
    conversation = open_conversation.current()
    settings_form.prepare()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        target = target_choice.choose_target(settings_form.KEY, preferred="transformers")
        settings = settings_form.choose_settings(target) if target else None
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "New chat",
            icon=":material/add:",
            key="new_chat",
            on_click=open_conversation.new,
            disabled=not (conversation.turns or open_conversation.pending()),
            shortcut="Ctrl+Shift+O",
        )
        saved_drawer.show_button()
        if target and settings:
            share.show_popover(conversation, settings, target)
            answers.settle(conversation)
            messages.show_context(conversation, target)
    open_conversation.show_notes()
    if target and settings:
        if note := target_choice.note(target, "openai"):
            st.caption(note)
        with st.bottom:
            messages.show_header(conversation, target, settings)
        silent = not permissions.note("talk")
        st.chat_input("Ask Phi-3", key="chat_text", on_submit=send, args=("chat_text",), disabled=silent)
        composer.attend("chat_text", resources.actor(), conversation.leaf, messages.editing())
        announcement.speak(conversation.shown[-1:])
        pending = open_conversation.pending()
        turns = conversation.path(pending.parent) if pending else conversation.shown
        messages.show_turns(conversation, turns, target_choice.available(), target, last=not pending)
        if not pending:
            suggestions.show(conversation, target, send, disabled=silent)
        elif messages.ask(conversation, pending, settings, target):
            resources.forget_lists()
            st.rerun()  # draws the answer with all that can be done to it
    open_conversation.save(conversation)
    open_conversation.name_in_address(conversation)
