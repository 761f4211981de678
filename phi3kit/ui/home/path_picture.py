"""Path picture: the way from weights to charts as a diagram, with what exists of it now.

Knows the diagram and its colours. Reads no store.
"""

from collections.abc import Collection

import streamlit as st

from phi3kit.core.records import WRAPPERS, WrapperName
from phi3kit.ui.shared import theme

_SIGNATURES: dict[WrapperName, str] = {"transformers": "llm/v1/chat", "onnx": "prompt: string"}
_ALT = "Weights become two wrappers with two signatures; both answer in Chat and Prompt, and Usage counts the tokens."


def show(built: Collection[WrapperName], turns: int) -> None:
    """Draw it. built: the wrappers that have a logged model; what does not exist yet is dashed."""
    colours = theme.palette()
    lines = ["flowchart LR", 'weights["Phi-3 weights"]', 'talk["Chat and Prompt"]', 'usage["Usage"]']
    for wrapper in WRAPPERS:
        lines += [
            f'{wrapper}["{wrapper} wrapper"]',
            f'{wrapper}_signature["{_SIGNATURES[wrapper]}"]',
            f"weights --> {wrapper} --> {wrapper}_signature --> talk",
            f"class {wrapper},{wrapper}_signature {wrapper}",
        ]
        if wrapper not in built:
            lines.append(f"class {wrapper},{wrapper}_signature missing")
    lines.append("talk --> usage")
    if not turns:
        lines.append("class talk,usage missing")
    lines += [
        f"classDef default fill:{colours.background},stroke:{colours.neutral},color:{colours.text}",
        *(
            f"classDef {each} fill:{colours.background},stroke:{colours.of(each)},color:{colours.text}"
            for each in WRAPPERS
        ),
        "classDef missing stroke-dasharray:4 4",
    ]
    st.mermaid_chart("\n".join(lines), alt=_ALT)
