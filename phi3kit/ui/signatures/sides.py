"""Sides: the two models whose signatures are compared.

Knows widgets. Does not know what a signature says.
"""

from dataclasses import dataclass

import streamlit as st
from mlflow.models import ModelSignature

from phi3kit.core.records import WrapperName
from phi3kit.tracking.registry import ModelChoice
from phi3kit.ui.shared import resources, shell, target_choice, theme, words


@dataclass(frozen=True)
class Side:
    """One of the two models."""

    letter: str
    choice: ModelChoice
    signature: ModelSignature

    @property
    def wrapper(self) -> WrapperName:
        """Which wrapper it is."""
        return self.choice.model.wrapper

    @property
    def heading(self) -> str:
        """Its letter and badge as Markdown."""
        return f"**{self.letter}** {theme.badge(self.wrapper)}"


def choose_sides() -> tuple[Side, Side] | None:
    """Two models, chosen in one row; None (and an empty state) when none is built."""
    found = resources.choices()
    if not found:
        shell.show_empty("Nothing to compare yet. Not built yet: transformers and onnx.", "build", "Build the wrappers")
        return None
    newest = [choice for choice in found if choice.model_uri == choice.model.model_uri]  # without names and aliases
    first = next((each for each in newest if each.model.wrapper == "transformers"), newest[0])
    second = next((each for each in newest if each.model.wrapper == "onnx"), newest[-1])
    with st.container(horizontal=True):
        a, b = _choose("A", found, first), _choose("B", found, second)
    if first.model.wrapper == second.model.wrapper:
        missing = "onnx" if first.model.wrapper == "transformers" else "transformers"
        st.caption(f"The {missing} wrapper is not built yet. Build it on Build.")
    return a, b


def _choose(letter: str, choices: list[ModelChoice], default: ModelChoice) -> Side:
    choice = target_choice.choose_among(
        choices, letter, f"sig_{letter}", default=default, width=380, label_of=_label,
        help="Registered versions by alias and number, then every logged model, newest first.",
    )  # fmt: skip
    return Side(letter, choice, resources.signature(choice.model.model_uri))


def _label(choice: ModelChoice) -> str:
    model = f"{choice.model.wrapper} · {words.model_label(choice.model)}"
    return f"{choice.label} · {model}" if choice.label else model
