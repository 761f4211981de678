"""Prompt: send a raw prompt, special tokens and all; see it as tokens and as messages before, and what flaws do to it."""

import streamlit as st

from phi3kit.conversations.conversation import Conversation
from phi3kit.ui.prompt import editor, runs, token_view
from phi3kit.ui.shared import (
    announcement,
    answers,
    elements,
    parameters,
    permissions,
    resources,
    shell,
    target_choice,
    theme,
)

shell.begin("Prompt")
st.markdown("A raw prompt is the exact text that the model reads, including Phi-3's special tokens.")
with shell.errors_shown():
    sent: Conversation = st.session_state.setdefault("prompt_runs", Conversation())
    with st.container(horizontal=True, vertical_alignment="bottom"):
        target = target_choice.choose_target("prompt", preferred="onnx")
        request = parameters.parameters_popover("prompt", target, "") if target else None
    if target and request and permissions.note("talk"):
        if note := target_choice.note(target, "raw"):
            st.caption(note)
        left, right = st.columns(2)
        with left, st.container(border=True):
            prompt = editor.show_editor()
            tokens = editor.tokenized(target, prompt)
            fits = editor.show_count(tokens, request.max_tokens)
            off = not prompt or not fits
            send = st.button(
                theme.on_primary("Send", off=off), type="primary", icon=":material/send:", disabled=off,
                on_click=target_choice.keep_target, args=("prompt",),
            )  # fmt: skip
        newest = right.container()  # beside the editor, where one sees it begin
        with right, st.container(border=True):
            view = elements.choose_view(["Tokens", "Messages", "What if"], "prompt_view")
            if view == "Tokens":
                token_view.show_tokens(tokens, prompt, "prompt_tokens")
            elif view == "Messages":
                editor.show_messages(prompt)
            elif not send:
                runs.show_variants(target, request, prompt, tokens, sent)
        if send and prompt:
            runs.send(target, request, prompt, sent)
        if growing := runs.growing():
            with newest, st.container(border=True):
                ended = runs.follow(growing)
            if ended:
                resources.forget_lists()
                st.rerun()
        announcement.speak(sent.turns[-1:])
        answers.settle(sent)
        with newest:
            runs.show_newest(sent)
        runs.show_difference(sent)
        runs.show_earlier(sent)
