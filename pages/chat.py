"""Chat: talk to a logged model or a remote endpoint with OpenAI messages."""

from dataclasses import replace

import streamlit as st

from phi3kit.conversation import Conversation
from phi3kit.ui import choosing, resources, shell, talk

SUGGESTIONS = (
    "What is the capital of Spain?",
    "スペインの首都はどこですか？",
    "Ποια είναι η πρωτεύουσα της Ισπανίας;",
    "Explain MLflow in detail.",
    "List the capitals of Europe.",
)

shell.begin("Chat")
with shell.errors_shown():
    conversation: Conversation = st.session_state.setdefault("conversation", Conversation())
    with st.container(horizontal=True, vertical_alignment="bottom"):
        target = choosing.choose_target("chat", preferred="transformers")
        if target:
            with st.popover(
                "System", icon=":material/psychology:", help="The first message: how the model should behave."
            ):
                system_prompt = st.text_area(
                    "System prompt",
                    key="system_prompt",
                    persist_state="session",
                    placeholder="You are a helpful assistant.",
                )
            request = talk.parameters("chat", target, ())
            if st.button("New chat", icon=":material/add:", disabled=not conversation.turns):
                conversation = st.session_state["conversation"] = Conversation()
    if target:
        if note := talk.native_note(target.wrapper, "openai"):
            st.caption(note)
        talk.settle(conversation)
        meter = st.empty()
        talk.show_context(conversation, target, meter)
        suggestion = None
        if not conversation.turns:
            place = st.empty()
            suggestion = place.pills("Try one of these", SUGGESTIONS, key=f"suggestion_{conversation.id}")
        for number, turn in enumerate(conversation.turns):
            with st.chat_message("user", avatar=":material/person:"):
                st.text(turn.text)
            with st.chat_message("assistant", avatar=":material/neurology:"):
                talk.show_answer(turn, key=f"turn_{number}")
        text = st.chat_input("Ask Phi-3") or suggestion
        if text and text.strip():
            if suggestion:
                place.empty()
            with st.chat_message("user", avatar=":material/person:"):
                st.text(text)
            with st.chat_message("assistant", avatar=":material/neurology:"):
                asked = replace(request, prompt=conversation.messages(system_prompt or "", text))
                talk.run_turn(target, asked, text, conversation.id, conversation.turns.append)
                talk.show_answer(conversation.turns[-1], key=f"turn_{len(conversation.turns) - 1}")
            talk.show_context(conversation, target, meter)
            resources.forget_lists()
        elif text:
            st.warning("The message is empty. Write something and send it again.", icon=":material/edit:")
