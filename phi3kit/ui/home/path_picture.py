"""Path picture: the way from weights to charts as a diagram, with what exists of it now.

Knows the diagram and its colours. Reads no store.
"""

from collections.abc import Collection

import streamlit as st

from phi3kit.core.records import WRAPPERS, WrapperName

_SIGNATURES: dict[WrapperName, str] = {"transformers": "llm/v1/chat", "onnx": "prompt: string"}
_COLOURS: dict[WrapperName, str] = {"transformers": "#8173e6", "onnx": "#1fae9a"}  # to be seen in both themes
# So that a narrow column holds it without small letters.
_CLOSE_TOGETHER = '%%{init: {"flowchart": {"padding": 8, "nodeSpacing": 16, "rankSpacing": 24}}}%%'
_ALT = "Weights become two wrappers with two signatures; both answer in Chat, and Usage counts the tokens."


def show(built: Collection[WrapperName], turns: int) -> None:
    """Draw it. built: the wrappers that have a logged model; what does not exist yet is dashed."""
    lines = [_CLOSE_TOGETHER, "flowchart TB", 'weights["Weights"]', 'talk["Chat"]', 'usage["Usage"]']
    for wrapper in WRAPPERS:
        lines += [
            f'{wrapper}["{wrapper}<br/>{_SIGNATURES[wrapper]}"]',
            f"weights --> {wrapper} --> talk",
            f"classDef {wrapper} stroke:{_COLOURS[wrapper]},stroke-width:2px",
            f"class {wrapper} {wrapper}",
        ]
    missing = [each for each in WRAPPERS if each not in built] + ([] if turns else ["talk", "usage"])
    lines += ["talk --> usage", "classDef missing stroke-dasharray:4 4"]
    lines += [f"class {each} missing" for each in missing]
    st.mermaid_chart("\n".join(lines), width="content", alt=_ALT)
