"""Home: what this is, what exists now, and the next step."""

import streamlit as st

from phi3kit.ui.build import job
from phi3kit.ui.chat import suggestions
from phi3kit.ui.home import path_picture
from phi3kit.ui.shared import pages, permissions, resources, shell, stand_in, steps_taken, theme
from phi3kit.usage.summary import faster_wrapper, totals

STEPS = {
    "build": "Log both wrappers from the small Phi-3 that ships with the app.",
    "signatures": "See what each wrapper accepts and returns, field by field.",
    "chat": "Send OpenAI messages on Chat, or a raw prompt on Prompt.",
    "usage": "Chart the tokens of every logged turn.",
}


shell.begin("Phi-3 as an MLflow model, two ways")
st.markdown(
    "Package Phi-3 with MLflow's transformers flavor or with a Python wrapper around ONNX Runtime. "
    "Compare their signatures, talk to both, and see what they cost in tokens."
)
with shell.errors_shown():
    models, turns = resources.models(), resources.turns()
    wrappers = {model.wrapper for model in models}
    seen = steps_taken.seen()
    done = {"build": len(wrappers) == 2, "signatures": "signatures" in seen}
    done |= {"chat": bool(len(turns)), "usage": "usage" in seen}
    following = next((name for name in STEPS if not done[name]), None)

    if models or len(turns):
        sums, fastest = totals(turns), faster_wrapper(turns)
        with st.container(horizontal=True):
            st.metric("Logged models", len(models), border=True, height="stretch")
            st.metric("Turns logged", f"{sums.turns:,}", border=True, height="stretch")
            st.metric("Tokens", f"{sums.total_tokens:,}", border=True, height="stretch")
            if fastest:
                times = f"{fastest.ratio:.1f}× the tokens/s"
                st.metric("Faster wrapper", fastest.wrapper, times, border=True, height="stretch")

    build = job.recent()
    if not models and not job.under_way():
        with st.container(border=True):
            st.markdown(
                "**Nothing is built yet.** A small Phi-3 ships with the app as a stand-in. Building both wrappers takes less "
                f"than half a minute and needs no network. {stand_in.KNOWS}, and nothing else."
            )
            with st.container(horizontal=True, vertical_alignment="center"):
                permissions.button(
                    "Build both wrappers",
                    "build",
                    type="primary",
                    icon=":material/deployed_code:",
                    on_click=job.start,
                    args=(job.BOTH_EMBEDDED,),
                )
                stand_in.link_to_the_real_one()
    job.show_job(build)
    nothing_asked = models and not len(turns) and permissions.may("talk")
    if nothing_asked and st.button(
        theme.on_primary(f"Ask it: {suggestions.FIRST}"), type="primary", icon=pages.PAGES["chat"].icon
    ):
        st.session_state["chat_text"] = suggestions.FIRST  # waits in the composer to be sent
        st.switch_page(pages.path("chat"))

    st.header("The chapter's steps")
    picture, steps = st.columns([3, 5], vertical_alignment="center")
    with picture:
        path_picture.show(wrappers, len(turns))
    for number, (name, sentence) in enumerate(STEPS.items(), start=1):
        mark = " :gray-badge[next]" if name == following else ""
        if done[name]:
            mark = " :green-badge[:material/check: done]"
        with steps.container(
            border=True, horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"
        ):
            st.markdown(f"**{number}. {pages.PAGES[name].title}**{mark}  \n{sentence}", width="content")
            st.page_link(pages.path(name), label=f"Open {pages.PAGES[name].title}", icon=":material/arrow_forward:")
