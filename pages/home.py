"""Home: what this is, what exists now, and the next step."""

import streamlit as st

from phi3kit.ui.build import cards
from phi3kit.ui.shared import resources, shell
from phi3kit.usage.summary import faster_wrapper, totals

STEPS = (
    ("build", "Build", "Log both wrappers from the small Phi-3 that ships with the app."),
    ("signatures", "Signatures", "See what each wrapper accepts and returns, field by field."),
    ("chat", "Chat", "Ask in OpenAI format, or send a raw prompt on Prompt."),
    ("usage", "Usage", "Chart the tokens of every logged turn."),
)

shell.begin("Phi-3 as an MLflow model, two ways")
st.markdown(
    "Package Phi-3 with MLflow's transformers flavor or with a Python wrapper around ONNX Runtime. "
    "Compare their signatures, talk to both, and see what they cost in tokens. "
    "A small Phi-3 ships with the app, so all of it works without a network."
)
with shell.errors_shown():
    models, turns = resources.models(), resources.turns()
    wrappers = {model.wrapper for model in models}
    done = {"build": len(wrappers) == 2, "signatures": "seen_signatures" in st.session_state}
    done |= {"chat": bool(len(turns)), "usage": "seen_usage" in st.session_state}
    following = next((name for name, _, _ in STEPS if not done[name]), None)

    sums = totals(turns)
    fastest = faster_wrapper(turns)
    with st.container(horizontal=True):
        st.metric("Logged models", len(models), border=True, height="stretch")
        st.metric("Turns logged", f"{sums.turns:,}", border=True, height="stretch")
        st.metric("Tokens", f"{sums.total_tokens:,}", border=True, height="stretch")
        if fastest:
            st.metric(
                "Faster wrapper", fastest.wrapper, f"{fastest.ratio:.1f}× the tokens/s", border=True, height="stretch"
            )

    job = cards.recent_job()
    if not models and not (job and job.active):
        with st.container(border=True):
            st.markdown(
                "**Nothing is built yet.** Both wrappers of the embedded (small) model take less than half a minute."
            )
            st.button(
                "Build both wrappers",
                type="primary",
                icon=":material/deployed_code:",
                on_click=cards.start,
                args=(cards.BOTH_EMBEDDED,),
            )
    cards.show_job(job)

    st.subheader("The path of the chapter")
    for number, (name, title, sentence) in enumerate(STEPS, start=1):
        mark = (
            " :green-badge[:material/check: done]"
            if done[name]
            else " :primary-badge[next]"
            if name == following
            else ""
        )
        with st.container(border=True, horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            st.markdown(f"**{number}. {title}**{mark}  \n{sentence}", width="content")
            st.page_link(shell.page(name), label="Open", icon=":material/arrow_forward:")
