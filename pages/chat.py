"""Chat: talk to a logged model or a remote endpoint with OpenAI messages."""

import streamlit as st

from phi3kit.chat.conversation import Conversation
from phi3kit.ui import allowed, chat_form, chats, choosing, drawer, messages, resources, share, shell, talk

SUGGESTIONS = (
    "What is the capital of Spain?",
    "スペインの首都はどこですか？",
    "Ποια είναι η πρωτεύουσα της Ισπανίας;",
    "Explain MLflow in detail.",
    "List the capitals of Europe.",
)


def send(key: str) -> None:
    """Ask what was written or chosen, behind what the reader saw."""
    text = str(st.session_state.get(key) or "")
    conversation: Conversation = st.session_state["conversation"]
    if text.strip():
        chats.ask(chats.Pending(text, conversation.leaf))
    elif text:
        chats.note("The message is empty. Write something and send it again.")


shell.begin("Chat")
with shell.errors_shown():
    conversation = chats.current()
    chat_form.prepare()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        target = choosing.choose_target(chat_form.KEY, preferred="transformers")
        settings = chat_form.settings_popover(target) if target else None
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "New chat",
            icon=":material/add:",
            key="new_chat",
            on_click=chats.new,
            disabled=not conversation.turns,
            shortcut="Ctrl+Shift+O",
        )
        drawer.button()
        if target and settings:
            share.popover(conversation, settings, target)
            talk.settle(conversation)
            talk.show_context(conversation, target, st.empty())
    chats.show_notes()
    if target and settings:
        if note := choosing.note(target, "openai"):
            st.caption(note)
        asks = allowed.note("talk")
        st.chat_input("Ask Phi-3", key="chat_text", on_submit=send, args=("chat_text",), disabled=not asks)
        pending = chats.pending()
        key = f"suggestion_{conversation.id}"
        if not conversation.turns and not pending:
            st.pills("Try one of these", SUGGESTIONS, key=key, on_change=send, args=(key,), disabled=not asks)
        turns = conversation.path(pending.parent) if pending else conversation.shown
        messages.show(conversation, turns, choosing.available(), target, last=not pending)
        if pending:
            messages.answer(conversation, pending, settings, target)
            resources.forget_lists()
            st.rerun()  # draws the answer with all that can be done to it
    chats.save(conversation)
    chats.name_in_address(conversation)
