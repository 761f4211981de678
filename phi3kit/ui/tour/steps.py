"""Steps: a step of the chapter, its code then and now, and a button that runs it here.

Knows how a step is drawn. Does not know what the steps say.
"""

import streamlit as st

from phi3kit.core.errors import Phi3KitError
from phi3kit.core.records import WRAPPERS, WrapperName
from phi3kit.endpoints import targets
from phi3kit.packaging.events import BuildRequest
from phi3kit.packaging.snippets import onnx_wrapper_code
from phi3kit.packaging.sources.find import EMBEDDED
from phi3kit.tracking.logged_models import LoggedModel
from phi3kit.ui.build import job as build_job
from phi3kit.ui.shared import elements, pages, permissions, resources, shell, theme
from phi3kit.ui.tour.chapter import MESSAGES, PROMPT, STEPS, TourStep, ask_like_the_chapter

_ONWARD = {
    "models": "Name and version it",
    "deploy": "Serve it, ship it, take it to Azure",
    "batch": "Answer a table",
    "evaluate": "Score it",
    "chat": "Talk to it",
}


def choose_step() -> int:
    """The step to show, from 0."""
    names = [f"{number}. {step.title}" for number, step in enumerate(STEPS, start=1)]
    elements.check_link("tour_at", "Step", names)
    at = st.selectbox(
        "Step", range(len(STEPS)), format_func=names.__getitem__, key="tour_at", bind="query-params", width=420
    )
    st.progress((at + 1) / len(STEPS), text=f"Step {at + 1} of {len(STEPS)}")
    return int(at)


def show_step(step: TourStep) -> None:
    """A step: what it does, then and now, why it changed, and what happens when it is run here."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.header(step.title)
        if step.wrapper:
            st.markdown(theme.badge(step.wrapper), width="content")
    st.markdown(step.words)
    if step.chapter:
        then_and_now = {"The chapter, 2024": step.chapter, "Today": step.today}
        for column, (title, code) in zip(st.columns(2), then_and_now.items(), strict=True):
            with column, st.container(border=True, height="stretch"):
                st.markdown(f"**{title}**")
                st.code(code, language="python", wrap_lines=True)
    if step.title.endswith("the class"):
        with st.expander("The complete wrapper, as logged"):
            st.code(onnx_wrapper_code(), language="python", wrap_lines=True)
    if step.why:
        st.markdown("\n".join(["**What changed and why**", "", *(f"- {each}" for each in step.why)]))
    _show_act(step)


def show_buttons(at: int) -> None:
    """To the step before and the next one."""
    with st.container(horizontal=True):
        st.button("Back", icon=":material/arrow_back:", disabled=at == 0, on_click=_go, args=(at - 1,), key="tour_back")
        if at + 1 < len(STEPS):
            label = f"Next: {STEPS[at + 1].title}"
            st.button(label, icon=":material/arrow_forward:", on_click=_go, args=(at + 1,), key="tour_next")


def _go(to: int) -> None:
    st.session_state["tour_at"] = to


def _show_act(step: TourStep) -> None:
    if step.act == "build" and step.wrapper:
        _show_build(step.wrapper)
    elif step.act == "signatures":
        _show_signatures()
    elif step.act == "predict" and step.wrapper:
        _show_question(step.wrapper)
    elif step.act == "onward":
        with st.container(horizontal=True):
            for page, label in _ONWARD.items():
                pages.link(page, label)


def _newest(wrapper: WrapperName) -> LoggedModel | None:
    return next((model for model in resources.models() if model.wrapper == wrapper), None)


def _show_build(wrapper: WrapperName) -> None:
    job = build_job.recent()
    built = _newest(wrapper)
    permissions.button(
        "Build it again" if built else "Run this step: build it",
        "build",
        type="secondary" if built else "primary",
        icon=":material/deployed_code:",
        disabled=build_job.under_way(),
        on_click=build_job.start,
        args=(BuildRequest((wrapper,), EMBEDDED, "int4"),),
        key=f"tour_build_{wrapper}",
    )
    build_job.show_job(job if job and wrapper in job.request.wrappers else None)
    if built:
        st.markdown("**Logged model**")
        st.code(built.model_uri, language=None, wrap_lines=True)


def _show_signatures() -> None:
    for column, wrapper in zip(st.columns(2), WRAPPERS, strict=True):
        with column, st.container(border=True, height="stretch"):
            st.markdown(theme.badge(wrapper))
            model = _newest(wrapper)
            if model is None:
                st.caption("Not built yet: run the step that logs it.")
            else:
                elements.show_signature(model.model_uri)
    pages.link("signatures", "Field by field")


def _show_question(wrapper: WrapperName) -> None:
    model = _newest(wrapper)
    if model is None:
        st.caption("Its model is not built yet: run the step that logs it, then come back.")
        return
    key = f"tour_answer_{model.model_uri}"
    if permissions.note("invoke") and st.button(
        theme.on_primary("Run this step: ask it"),
        type="primary",
        icon=":material/play_arrow:",
        key=f"tour_ask_{wrapper}",
    ):
        with st.spinner("Loading the model with plain MLflow"):
            try:
                endpoint = resources.endpoint(targets.of_model(model, ""))
                st.session_state[key] = ask_like_the_chapter(endpoint, wrapper, resources.actor())
            except Phi3KitError as error:
                st.session_state.pop(key, None)
                shell.show_error(error)
    if key in st.session_state:
        answer, response = st.session_state[key]
        with st.container(border=True):
            st.caption("Question")
            st.text(MESSAGES[0]["content"] if wrapper == "transformers" else PROMPT)
            st.caption("Answer")
            st.text(answer)
            with st.expander("Full response"):
                st.json(response)
