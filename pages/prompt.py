"""Prompt: send a raw prompt, special tokens and all; see it as tokens and as messages before, and what flaws do to it."""

import streamlit as st

from phi3kit.chat.conversation import Conversation
from phi3kit.prompts import chat_template
from phi3kit.ui import allowed, choosing, live_text, prompting, shell, talk

shell.begin("Prompt")
st.markdown("A raw prompt is the text that the model reads, with Phi-3's special tokens in it.")
with shell.errors_shown():
    runs: Conversation = st.session_state.setdefault("prompt_runs", Conversation())
    with st.container(horizontal=True, vertical_alignment="bottom"):
        target = choosing.choose_target("prompt", preferred="onnx")
        request = talk.parameters("prompt", target, "") if target else None
    if target and request and allowed.note("talk"):
        if note := choosing.note(target, "raw"):
            st.caption(note)
        editor, views = st.columns(2)
        with editor, st.container(border=True):
            prompting.show_parts()
            prompt = live_text.text_area("Raw prompt", key="raw_prompt", height=260, placeholder=chat_template.EXAMPLE)
            found = prompting.tokenized(target, prompt)
            fits = prompting.show_count(found, request.max_tokens)
            send = st.button("Send", type="primary", icon=":material/send:", disabled=not prompt or not fits)
        with views, st.container(border=True):
            view = st.segmented_control(
                "View", ["Tokens", "Messages", "What if"], default="Tokens", required=True, key="prompt_view",
                persist_state="session", label_visibility="collapsed",
            )  # fmt: skip
            if view == "Tokens":
                prompting.show_tokens(found, prompt)
            elif view == "Messages":
                prompting.show_messages(prompt)
            elif not send:
                prompting.show_variants(target, request, prompt, found, runs)
        output = st.container()
        if send and prompt:
            with output, st.container(border=True):
                prompting.send(target, request, prompt, runs)
            st.rerun()
        talk.settle(runs)
        with output:
            prompting.show_difference(runs)
            prompting.show_runs(runs)
