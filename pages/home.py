"""Home: what this is, what exists now, and the next step."""

import streamlit as st

from phi3kit.ui.build import job
from phi3kit.ui.shared import pages, permissions, resources, shell
from phi3kit.usage.summary import faster_wrapper, totals

STEPS = {
    "build": "Log both wrappers from the small Phi-3 that ships with the app.",
    "signatures": "See what each wrapper accepts and returns, field by field.",
    "chat": "Ask in OpenAI format, or send a raw prompt on Prompt.",
    "usage": "Chart the tokens of every logged turn.",
}

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
    following = next((name for name in STEPS if not done[name]), None)

    sums = totals(turns)
    with st.container(horizontal=True):
        st.metric("Logged models", len(models), border=True, height="stretch")
        st.metric("Turns logged", f"{sums.turns:,}", border=True, height="stretch")
        st.metric("Tokens", f"{sums.total_tokens:,}", border=True, height="stretch")
        if fastest := faster_wrapper(turns):
            times = f"{fastest.ratio:.1f}× the tokens/s"
            st.metric("Faster wrapper", fastest.wrapper, times, border=True, height="stretch")

    build = job.recent()
    if not models and not job.under_way():
        with st.container(border=True):
            st.markdown(
                "**Nothing is built yet.** Both wrappers of the embedded (small) model take less than half a minute."
            )
            permissions.button(
                "Build both wrappers",
                "build",
                type="primary",
                icon=":material/deployed_code:",
                on_click=job.start,
                args=(job.BOTH_EMBEDDED,),
            )
    job.show_job(build)

    st.subheader("The path of the chapter")
    for number, (name, sentence) in enumerate(STEPS.items(), start=1):
        mark = " :primary-badge[next]" if name == following else ""
        if done[name]:
            mark = " :green-badge[:material/check: done]"
        with st.container(border=True, horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            st.markdown(f"**{number}. {pages.PAGES[name].title}**{mark}  \n{sentence}", width="content")
            st.page_link(pages.path(name), label="Open", icon=":material/arrow_forward:")
