"""Prompt: send a raw prompt, special tokens and all; see it as tokens and as messages before, and what flaws do to it."""

import streamlit as st

from phi3kit.conversations.conversation import Conversation
from phi3kit.formats import chat_template
from phi3kit.ui.prompt import editor
from phi3kit.ui.shared import answers, live_text, permissions, shell, target_choice

shell.begin("Prompt")
st.markdown("A raw prompt is the text that the model reads, with Phi-3's special tokens in it.")
with shell.errors_shown():
    runs: Conversation = st.session_state.setdefault("prompt_runs", Conversation())
    with st.container(horizontal=True, vertical_alignment="bottom"):
        target = target_choice.choose_target("prompt", preferred="onnx")
        request = answers.parameters("prompt", target, "") if target else None
    if target and request and permissions.note("talk"):
        if note := target_choice.note(target, "raw"):
            st.caption(note)
        writing, views = st.columns(2)
        with writing, st.container(border=True):
            editor.show_parts()
            prompt = live_text.text_area("Raw prompt", key="raw_prompt", height=260, placeholder=chat_template.EXAMPLE)
            found = editor.tokenized(target, prompt)
            fits = editor.show_count(found, request.max_tokens)
            send = st.button("Send", type="primary", icon=":material/send:", disabled=not prompt or not fits)
        with views, st.container(border=True):
            view = st.segmented_control(
                "View", ["Tokens", "Messages", "What if"], default="Tokens", required=True, key="prompt_view",
                persist_state="session", label_visibility="collapsed",
            )  # fmt: skip
            if view == "Tokens":
                editor.show_tokens(found, prompt)
            elif view == "Messages":
                editor.show_messages(prompt)
            elif not send:
                editor.show_variants(target, request, prompt, found, runs)
        output = st.container()
        if send and prompt:
            with output, st.container(border=True):
                editor.send(target, request, prompt, runs)
            st.rerun()
        answers.settle(runs)
        with output:
            editor.show_difference(runs)
            editor.show_runs(runs)
