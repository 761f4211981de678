"""Prompt: send a raw prompt, special tokens and all, and see its tokens counted before."""

from dataclasses import replace

import streamlit as st

from phi3kit import chat_template
from phi3kit.conversation import Conversation
from phi3kit.ui import choosing, live_text, prompting, resources, shell, talk

shell.begin("Prompt")
st.markdown("A raw prompt is the text that the model reads, with Phi-3's special tokens in it.")
with shell.errors_shown():
    runs: Conversation = st.session_state.setdefault("prompt_runs", Conversation())
    with st.container(horizontal=True, vertical_alignment="bottom"):
        target = choosing.choose_target("prompt", preferred="onnx")
        request = talk.parameters("prompt", target, "") if target else None
    if target and request:
        if note := talk.native_note(target.wrapper, "raw"):
            st.caption(note)
        with st.container(horizontal=True):
            for label, part in prompting.PARTS.items():
                st.button(
                    label, key=f"part_{label}", on_click=prompting.insert, args=(part,), help=prompting.HELP[label]
                )
            for label, example in prompting.EXAMPLES.items():
                st.button(label, key=f"example_{label}", type="tertiary", on_click=prompting.replace, args=(example,))
        prompt = live_text.text_area("Raw prompt", key="raw_prompt", height=200, placeholder=chat_template.EXAMPLE)
        fits = prompting.show_count(target, prompt)
        send = st.button("Send", type="primary", icon=":material/send:", disabled=not prompt or not fits)
        output = st.container()
        if send and prompt:
            with output, st.container(border=True):
                talk.run_turn(target, replace(request, prompt=prompt), prompt, runs.id, runs.turns.append)
            resources.forget_lists()
            st.rerun()
        talk.settle(runs)
        with output:
            prompting.show_runs(runs)
