"""Build: package a Phi-3 as an MLflow model with either wrapper, and watch each step."""

import streamlit as st

from phi3kit.core.records import PRECISIONS, WRAPPERS
from phi3kit.packaging.events import BuildRequest
from phi3kit.packaging.sources.find import EMBEDDED
from phi3kit.ui.build import cards
from phi3kit.ui.shared import permissions, resources, shell

WRAPPER_CHOICES = {"both": WRAPPERS, "transformers": ("transformers",), "onnx": ("onnx",)}
WRAPPER_WORDS = {
    "both": "**both**: MLflow's chat pipeline, and a Python class around ONNX Runtime",
    "transformers": "**transformers**: MLflow's own chat pipeline around the weights as they are",
    "onnx": "**onnx**: a Python class around ONNX Runtime's generate API, with the weights exported for the CPU",
}
SOURCE_WORDS = {
    "embedded (small)": "**embedded (small)**: the 5-million-weight Phi-3 that ships with the app; no network",
    "Hugging Face": "**Hugging Face**: a Phi-3 from the hub, downloaded once and kept; resumes after a break",
    "folder": "**folder**: weights in safetensors, or an ONNX folder, on the machine that runs this app",
}
PRECISION_WORDS = {
    "int4": "**int4**: smallest and fastest; some answers change, and the build counts how many",
    "int8": "**int8**: twice the size of int4, closer to the source",
    "fp32": "**fp32**: exact, and eight times the size of int4",
}
REPOSITORIES = (
    "microsoft/Phi-3-mini-4k-instruct",
    "microsoft/Phi-3-mini-4k-instruct-onnx/cpu_and_mobile/cpu-int4-rtn-block-32-acc-level-4",
    "microsoft/Phi-3-mini-128k-instruct",
    "microsoft/Phi-3.5-mini-instruct",
    "microsoft/Phi-3-medium-4k-instruct",
)

shell.begin("Build")
st.markdown("Turn Phi-3 weights into an MLflow model: weights in, logged model with signature and requirements out.")
with shell.errors_shown():
    if permissions.note("build"):
        permissions.note("build_any")
    kinds = list(SOURCE_WORDS) if permissions.may("build_any") else ["embedded (small)"]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        wrapper = st.segmented_control("Wrapper", list(WRAPPER_CHOICES), default="both", required=True)
        kind = st.segmented_control("Source", kinds, default="embedded (small)", required=True)
        precision = st.segmented_control(
            "ONNX precision", list(PRECISIONS), default="int4", required=True, disabled=wrapper == "transformers"
        )
        with st.popover("Register", icon=":material/bookmark_add:", disabled=not permissions.may("register")):
            register = st.text_input(
                "Name in the Model Registry", placeholder="leave empty to only log", help="Adds a numbered version."
            )
    words = [WRAPPER_WORDS[wrapper], SOURCE_WORDS[kind]]
    st.caption(" · ".join(words if wrapper == "transformers" else [*words, PRECISION_WORDS[precision]]))
    source_name: str | None = EMBEDDED
    if kind == "folder":
        source_name = st.text_input("Folder", placeholder="folder with config.json or genai_config.json")
    elif kind == "Hugging Face":
        source_name = st.selectbox(
            "Repository",
            REPOSITORIES,
            accept_new_options=True,
            help="owner/name, owner/name@revision, or owner/name/folder where a repository holds several ONNX models.",
        )
    request = BuildRequest(
        WRAPPER_CHOICES[wrapper], (source_name or "").strip(), precision, (register or "").strip() or None
    )
    plan = None
    if request.source:
        with shell.errors_shown():
            source, plan = resources.plan(request)
            cards.show_plan(source, plan)
        if plan is None:
            st.button("Look again", icon=":material/refresh:", on_click=resources.forget_plans)
    tight = plan is not None and plan.verdict == "tight"
    anyway = tight and st.checkbox("Build although it is a tight fit: the machine may become slow, or end the build.")
    st.button(
        "Build both wrappers" if wrapper == "both" else f"Build the {wrapper} wrapper",
        type="primary",
        icon=":material/deployed_code:",
        disabled=not permissions.may("build") or plan is None or plan.verdict == "too much" or (tight and not anyway),
        on_click=cards.start,
        args=(request, bool(anyway)),
    )
with shell.errors_shown():
    jobs = resources.kit().builds.all()
    job = resources.kit().builds.latest()
    cards.show_job(job)
    if job and not job.active:
        for built in job.built:
            cards.show_built(built)
        if job.built and not job.error:
            with st.container(horizontal=True):
                st.page_link(shell.page("chat"), label="Talk to it", icon=":material/forum:")
                st.page_link(shell.page("signatures"), label="Compare the signatures", icon=":material/schema:")
    elif job is None and source_name == EMBEDDED and not resources.models():
        st.caption(
            "Nothing is built yet. The button above builds both wrappers of the embedded (small) model in seconds."
        )
    if found := resources.models():
        with st.container(border=True):
            st.markdown("**Logged models**")
            st.dataframe(
                [
                    {
                        "wrapper": model.wrapper,
                        "source": shell.source_label(model.source),
                        "precision": model.precision,
                        "built": model.created_at,
                        "model_uri": model.model_uri,
                    }
                    for model in found
                ],
                hide_index=True,
                column_config={"built": st.column_config.DatetimeColumn(format="D MMM YYYY, HH:mm:ss")},
            )
    if jobs:
        cards.show_history(jobs)
