"""Target choice: what to talk to or work with, a logged model or a remote connection, chosen in one row.

Knows widgets. Does not know how a target answers.
"""

from collections.abc import Callable, Sequence

import streamlit as st

from phi3kit.core.records import SERVED, Interface, Served
from phi3kit.endpoints import targets
from phi3kit.endpoints.targets import Target
from phi3kit.tracking.registry import ModelChoice
from phi3kit.ui.shared import connections_dialog, elements, resources, shell, words

_ORDER = "Aliases and versions first, then logged models, newest first."


def choose_target(key: str, preferred: Served) -> Target | None:
    """The model to talk to; None (and an empty state) when there is none.

    "remote" is offered beside the wrappers when there are connections.
    """
    found = available()
    served = [each for each in SERVED if any(target.wrapper == each for target in found)]
    if not served:
        show_nothing_yet()
        return None
    default = preferred if preferred in served else served[0]
    wrapper = elements.choose_one("Wrapper", served, f"{key}_wrapper", default=default)
    of_wrapper = {target.model_uri: target for target in found if target.wrapper == wrapper}
    remote = wrapper == "remote"
    uri = elements.choose_from(
        "Connection" if remote else "Model",
        of_wrapper,
        f"{key}_model_{wrapper}",
        format_func=lambda each: of_wrapper[each].label,
        width=300,
        help="An endpoint that was added under Connections."
        if remote
        else f"{_ORDER} The small model knows only its training data.",
    )
    connections_dialog.connections_button(key)
    return of_wrapper[uri]


def set_target(key: str, wrapper: Served, model_uri: str) -> None:
    """Choose what `choose_target` offers under a key, before it is drawn."""
    st.session_state[f"{key}_wrapper"] = wrapper
    elements.set_choice(f"{key}_model_{wrapper}", model_uri)


def keep_target(key: str) -> None:
    """Something is asked: a model that is built from now on does not take the place of the chosen one."""
    elements.keep_choice(f"{key}_model_{st.session_state.get(f'{key}_wrapper')}")


def show_nothing_yet() -> None:
    """The empty state of a page that needs something to talk to."""
    shell.show_empty(
        "No model is built yet. Build one and talk to it here; the small one takes seconds.", "build", "Build a wrapper"
    )
    connections_dialog.connections_button("nothing")


def note(target: Target, interface: Interface) -> str | None:
    """A sentence when the target's own input is another than what is sent, or when it ignores part of it."""
    if target.wrapper == "onnx" and interface == "openai":
        return "The onnx wrapper's own input is a raw prompt: these messages go through the chat template first."
    if target.wrapper == "transformers" and interface == "raw":
        return "The transformers wrapper's own input is a list of messages: this prompt bypasses its chat template."
    if target.connection is None or target.connection.protocol == "openai":
        return None
    if target.connection.takes == "raw":
        return "It takes only a prompt. The endpoint sets temperature, max tokens and stop strings."
    return "MLflow returns the whole answer at once and takes no seed."


def choose_model(key: str) -> ModelChoice | None:
    """A logged model, by alias, version or itself; None (and an empty state) when there is none."""
    if choices := resources.choices():
        return choose_among(choices, "Model", key)
    shell.show_empty("No model is built yet. Build one first; the small one takes seconds.", "build", "Build a wrapper")
    return None


def choice_label(choice: ModelChoice) -> str:
    """A choice in a list: its alias or version and wrapper, or what the logged model is."""
    return f"{choice.label or words.model_label(choice.model)} · {choice.model.wrapper}"


def choose_among(
    choices: Sequence[ModelChoice],
    label: str,
    key: str,
    *,
    default: ModelChoice | None = None,
    width: int = 330,
    help: str = _ORDER,
    label_of: Callable[[ModelChoice], str] = choice_label,
) -> ModelChoice:
    """One of these choices, in a selectbox."""
    by_uri = {choice.model_uri: choice for choice in choices}
    uri = elements.choose_from(
        label,
        by_uri,
        key,
        default=default.model_uri if default else None,
        format_func=lambda each: label_of(by_uri[each]),
        width=width,
        help=help,
    )
    return by_uri[uri]


def available() -> list[Target]:
    """Everything that can be talked to: aliases, versions, logged models, then connections. Raises StorageFailed."""
    models = [
        targets.of_model(choice.model, choice.label or words.model_label(choice.model), choice.model_uri)
        for choice in resources.choices()
        if not choice.model.files_gone
    ]
    return models + [targets.of_connection(connection) for connection in resources.connections()]
