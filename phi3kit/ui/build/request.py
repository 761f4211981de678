"""Request: which wrappers are built from which weights, and what that needs.

Knows widgets. Does not know how sources are found or needs estimated.
"""

import streamlit as st

from phi3kit.core.records import PRECISIONS, WRAPPERS, WrapperName
from phi3kit.packaging.events import BuildRequest
from phi3kit.packaging.plan import Plan
from phi3kit.packaging.sources.find import EMBEDDED, Source
from phi3kit.ui.shared import elements, permissions, words
from phi3kit.ui.shared.literal import literal

_WRAPPERS: dict[str, tuple[WrapperName, ...]] = {
    "both": WRAPPERS,
    "transformers": ("transformers",),
    "onnx": ("onnx",),
}
_WRAPPER_HELP = {
    "both": "**both**: MLflow's chat pipeline, and a Python class around ONNX Runtime",
    "transformers": "**transformers**: MLflow's own chat pipeline around the original weights",
    "onnx": "**onnx**: a Python class around ONNX Runtime's generate API, with the weights exported for the CPU",
}
_SOURCE_HELP = {
    "embedded (small)": "**embedded (small)**: the 5-million-weight Phi-3 that ships with the app; no network",
    words.HUGGING_FACE: "**Hugging Face**: a Phi-3 from the hub, downloaded once and kept; an interrupted download resumes",
    "folder": "**folder**: weights in safetensors, or an ONNX folder, on the machine that runs this app",
}
_PRECISION_HELP = {
    "int4": "**int4**: smallest and fastest; some answers change, and the build counts how many",
    "int8": "**int8**: twice the size of int4, closer to the source",
    "fp32": "**fp32**: exact, and eight times the size of int4",
}
_REPOSITORIES = (
    "microsoft/Phi-3-mini-4k-instruct",
    "microsoft/Phi-3-mini-4k-instruct-onnx/cpu_and_mobile/cpu-int4-rtn-block-32-acc-level-4",
    "microsoft/Phi-3-mini-128k-instruct",
    "microsoft/Phi-3.5-mini-instruct",
    "microsoft/Phi-3-medium-4k-instruct",
)
_VERDICTS = {
    "fits": ":green[:material/check_circle:] Fits on this machine",
    "tight": ":yellow[:material/warning:] A tight fit",
    "too much": ":red[:material/error:] Does not fit on this machine",
}


def choose_request() -> BuildRequest:
    """What should be built; its source is empty until one is chosen."""
    kinds = ["embedded (small)"]
    kinds += [words.HUGGING_FACE] if permissions.may("build_any") else []
    kinds += ["folder"] if permissions.may("build_folder") else []
    with st.container(horizontal=True, vertical_alignment="bottom"):
        wrapper = elements.choose_one("Wrapper", _WRAPPERS, "build_wrapper")
        kind = elements.choose_one("Source", kinds, "build_source", bind="query-params")
        precision = elements.choose_one(
            "ONNX precision", PRECISIONS, "build_precision", disabled=wrapper == "transformers"
        )
        with st.popover("Register", icon=":material/bookmark_add:", disabled=not permissions.may("register")):
            name = st.text_input(
                "Name in the Model Registry", placeholder="Leave empty to only log it", help="Adds a numbered version."
            )
    about = [_WRAPPER_HELP[wrapper], _SOURCE_HELP[kind]]
    st.caption(" · ".join(about if wrapper == "transformers" else [*about, _PRECISION_HELP[precision]]))
    return BuildRequest(_WRAPPERS[wrapper], _choose_source(kind).strip(), precision, (name or "").strip() or None)


def _choose_source(kind: str) -> str:
    if kind == "folder":
        return st.text_input("Folder", placeholder="Folder with config.json or genai_config.json") or ""
    if kind == words.HUGGING_FACE:
        return (
            st.selectbox(
                "Repository",
                _REPOSITORIES,
                accept_new_options=True,
                help="owner/name, owner/name@revision, or owner/name/folder where a repository holds several ONNX models.",
            )
            or ""
        )
    return EMBEDDED


def show_plan(source: Source, plan: Plan) -> None:
    """The source's shape, and the plan's verdict with every need."""
    shape = source.shape
    parts = [f"{shape.layers} layers", f"hidden size {shape.hidden_size:,}", f"context {shape.context_tokens:,} tokens"]
    parts += [shape.dtype or "ONNX", f"{words.size(source.files.size_bytes)} of files"]
    if source.commit:
        parts.append(f"commit {source.commit[:12]}")
    if source.license:
        parts.append(f"license {source.license}")
    st.caption(literal(" · ".join(parts)))
    if source.snapshot:
        st.caption(f"[Model card]({source.snapshot.card_url})")
    download = f" · {words.size(plan.download_bytes)} to download" if plan.download_bytes else ""
    label = f"{_VERDICTS[plan.verdict]} · about {words.duration(plan.seconds)}{download}"
    with st.expander(label, expanded=plan.verdict != "fits" or source.name != EMBEDDED):
        st.dataframe(
            [
                {
                    "what": need.what,
                    "needed": words.size(need.needed),
                    "free": words.size(need.available) if need.available is not None else "no limit",
                    "verdict": need.verdict,
                    "breakdown": need.how,
                }
                for need in plan.needs
            ],
            hide_index=True,
            alt="What the build needs, and what is free",
        )
        memory = " and ".join(f"{words.size(held)} in the {wrapper} worker" for wrapper, held in plan.kv_bytes.items())
        st.caption(f"Each conversation needs extra memory: one that fills the context needs {memory}.")
