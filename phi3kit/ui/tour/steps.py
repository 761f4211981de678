"""Touring: a step of the chapter, its code then and now, and a button that runs it here.

Knows how a step is drawn. What the steps are, the tour knows.
"""

import streamlit as st

from phi3kit.core.errors import Phi3KitError
from phi3kit.core.records import WRAPPERS, WrapperName
from phi3kit.endpoints import targets
from phi3kit.formats.signatures import describe
from phi3kit.packaging.events import BuildRequest
from phi3kit.packaging.snippets import onnx_wrapper_code
from phi3kit.packaging.sources.find import EMBEDDED
from phi3kit.tracking.logged_models import LoggedModel
from phi3kit.ui.build import cards
from phi3kit.ui.shared import permissions, resources, shell, theme
from phi3kit.ui.tour.chapter import MESSAGES, PROMPT, STEPS, TourStep, ask_like_the_chapter

_ONWARD = (
    ("models", "Name and version it", ":material/inventory_2:"),
    ("deploy", "Serve it, ship it, take it to Azure", ":material/rocket_launch:"),
    ("batch", "Answer a table", ":material/table_rows:"),
    ("evaluate", "Score it", ":material/fact_check:"),
    ("chat", "Talk to it", ":material/forum:"),
)


def choose_step() -> int:
    """The step to show, from 0."""
    names = [f"{number}. {step.title}" for number, step in enumerate(STEPS, start=1)]
    at = st.session_state.setdefault("tour_at", 0)
    chosen = st.selectbox("Step", range(len(STEPS)), index=at, format_func=names.__getitem__, width=420)
    if chosen != at:
        st.session_state["tour_at"] = chosen
    st.progress((chosen + 1) / len(STEPS), text=f"Step {chosen + 1} of {len(STEPS)}")
    return int(chosen)


def show_step(step: TourStep) -> None:
    """A step: what it does, then and now, why it changed, and what happens when it is run here."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(step.title)
        if step.wrapper:
            st.markdown(theme.badge(step.wrapper), width="content")
    st.markdown(step.words)
    if step.chapter:
        for column, title, code in zip(
            st.columns(2), ("The chapter, 2024", "Today"), (step.chapter, step.today), strict=True
        ):
            with column, st.container(border=True, height="stretch"):
                st.markdown(f"**{title}**")
                st.code(code, language="python", wrap_lines=True)
    if step.title.endswith("the class"):
        with st.expander("The whole wrapper, as it is logged"):
            st.code(onnx_wrapper_code(), language="python")
    if step.why:
        st.markdown("\n".join(["**What changed, and why**", "", *(f"- {each}" for each in step.why)]))
    _run(step)


def show_ways(at: int) -> None:
    """Back and on."""
    with st.container(horizontal=True):
        st.button("Back", icon=":material/arrow_back:", disabled=at == 0, on_click=_go, args=(at - 1,), key="tour_back")
        if at + 1 < len(STEPS):
            st.button(
                f"Next: {STEPS[at + 1].title}",
                icon=":material/arrow_forward:",
                on_click=_go,
                args=(at + 1,),
                key="tour_next",
            )


def _go(to: int) -> None:
    st.session_state["tour_at"] = to


def _run(step: TourStep) -> None:
    if step.act == "build" and step.wrapper:
        _build(step.wrapper)
    elif step.act == "signatures":
        _signatures()
    elif step.act == "predict" and step.wrapper:
        _predict(step.wrapper)
    elif step.act == "onward":
        with st.container(horizontal=True):
            for page, label, icon in _ONWARD:
                st.page_link(shell.page(page), label=label, icon=icon)


def _newest(wrapper: WrapperName) -> LoggedModel | None:
    return next((model for model in resources.models() if model.wrapper == wrapper), None)


def _build(wrapper: WrapperName) -> None:
    job = cards.recent_job()
    built = _newest(wrapper)
    st.button(
        "Build it again" if built else "Run this step: build it",
        type="secondary" if built else "primary",
        icon=":material/deployed_code:",
        disabled=job is not None and job.active,
        on_click=cards.start,
        args=(BuildRequest((wrapper,), EMBEDDED, "int4"),),
        key=f"tour_build_{wrapper}",
    )
    if job and wrapper in job.request.wrappers:
        cards.show_job(job)
    if built:
        st.markdown("**Logged model**")
        st.code(built.model_uri, language=None)


def _signatures() -> None:
    for column, wrapper in zip(st.columns(2), WRAPPERS, strict=True):
        with column, st.container(border=True, height="stretch"):
            st.markdown(theme.badge(wrapper))
            model = _newest(wrapper)
            if model is None:
                st.caption("Not built yet: run the step that logs it.")
            else:
                notation = describe(resources.signature(model.model_uri)).notation
                st.code(notation, language=None, wrap_lines=True, height=260)
    st.page_link(shell.page("signatures"), label="Field by field", icon=":material/schema:")


def _predict(wrapper: WrapperName) -> None:
    model = _newest(wrapper)
    if model is None:
        st.caption("Its model is not built yet: run the step that logs it, then come back.")
        return
    key = f"tour_answer_{model.model_uri}"
    if permissions.note("invoke") and st.button(
        "Run this step: ask it", type="primary", icon=":material/play_arrow:", key=f"tour_ask_{wrapper}"
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
            with st.expander("The whole response"):
                st.json(response)
