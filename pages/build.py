"""Build: package a Phi-3 as an MLflow model with either wrapper, and watch each step."""

import streamlit as st

from phi3kit.build_process import BuildRequest
from phi3kit.records import PRECISIONS, WRAPPERS
from phi3kit.sources import EMBEDDED, find_source
from phi3kit.ui import building, resources, shell

WRAPPER_CHOICES = {"both": WRAPPERS, "transformers": ("transformers",), "onnx": ("onnx",)}

shell.begin("Build")
st.markdown("Turn Phi-3 weights into an MLflow model: weights in, logged model with signature and requirements out.")
with shell.errors_shown():
    job = resources.kit().builds.job
    with st.container(horizontal=True, vertical_alignment="bottom"):
        wrapper = st.segmented_control(
            "Wrapper",
            list(WRAPPER_CHOICES),
            default="both",
            required=True,
            help="transformers: MLflow's chat pipeline. onnx: a Python class around ONNX Runtime's generate API.",
        )
        source_kind = st.segmented_control(
            "Source",
            ["embedded (small)", "folder"],
            default="embedded (small)",
            required=True,
            help="The small Phi-3 that ships with the app, or a folder with Phi-3 weights in safetensors.",
        )
        precision = st.segmented_control(
            "ONNX precision",
            list(PRECISIONS),
            default="int4",
            required=True,
            disabled=wrapper == "transformers",
            help="Bits of a weight in the ONNX export: int4 is smallest and fastest, fp32 exact.",
        )
        with st.popover("Register", icon=":material/bookmark_add:"):
            register = st.text_input(
                "Name in the Model Registry", placeholder="leave empty to only log", help="Adds a numbered version."
            )
    folder = st.text_input("Folder", placeholder="folder with config.json") if source_kind == "folder" else EMBEDDED
    request = BuildRequest(WRAPPER_CHOICES[wrapper], folder or "", precision, (register or "").strip() or None)
    st.button(
        "Build both wrappers" if wrapper == "both" else f"Build the {wrapper} wrapper",
        type="primary",
        icon=":material/deployed_code:",
        disabled=bool(job and job.running) or not folder,
        on_click=building.start,
        args=(request,),
    )
    if folder:
        source = find_source(folder)
        st.caption(
            f"{source.layers} layers · hidden size {source.hidden_size} · context {source.context_tokens:,} tokens · "
            f"{source.dtype} · {shell.megabytes(source.size_bytes)} on disk"
        )
with shell.errors_shown():
    building.show_job()
    job = resources.kit().builds.job
    if job and not job.running:
        for built in job.built:
            building.show_built(built)
        if job.built and not job.error:
            with st.container(horizontal=True):
                st.page_link(shell.page("chat"), label="Talk to it", icon=":material/forum:")
                st.page_link(shell.page("signatures"), label="Compare the signatures", icon=":material/schema:")
    elif job is None and not resources.models():
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
