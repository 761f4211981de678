"""Parameters: what a request is sent with, as widgets.

Knows the widgets' keys: those of a page, and the settings' names. Does not know which values can be used.
"""

from typing import Any

import streamlit as st

from phi3kit.conversations.chat_settings import MAX_SEED, MIN_TOP_P, ChatSettings
from phi3kit.core.records import Message
from phi3kit.endpoints.records import Request
from phi3kit.endpoints.targets import Target

_CONTEXT_TOKENS = 131_072  # the most that may be asked of an endpoint that does not say its context


def parameters_popover(key: str, target: Target, prompt: tuple[Message, ...] | str) -> Request:
    """A request with the parameters set in a popover."""
    with st.popover("Parameters", icon=":material/tune:"):
        return parameter_widgets(key, target).request(prompt)


def parameter_widgets(key: str, target: Target) -> ChatSettings:
    """The widgets, and what they are set to; no system prompt."""
    defaults, context_tokens = ChatSettings(), target.context_tokens or _CONTEXT_TOKENS
    for name in ("temperature", "top_p", "max_tokens"):
        st.session_state.setdefault(f"{key}_{name}", getattr(defaults, name))
    # Another model may hold less than the one before it.
    st.session_state[f"{key}_max_tokens"] = min(st.session_state[f"{key}_max_tokens"] or 1, context_tokens)

    def common(name: str, help: str) -> dict[str, Any]:
        return {"key": f"{key}_{name}", "persist_state": "session", "help": help}

    temperature = st.slider(
        "Temperature", 0.0, 2.0, step=0.05, **common("temperature", "0 always picks the most likely token.")
    )
    top_p = st.slider(
        "Top p", MIN_TOP_P, 1.0, step=0.05, **common("top_p", "Sample from the most likely tokens up to this share.")
    )
    max_tokens = st.number_input(
        "Max tokens", 1, context_tokens, step=1, **common("max_tokens", "Limits the answer only.")
    )
    seed = st.number_input(
        "Seed", 0, MAX_SEED, None, placeholder="random", **common("seed", "The same seed gives the same answer.")
    )
    stop = st.text_area(
        "Stop strings", height=80, placeholder="one per line", **common("stop", "The answer ends before them.")
    )
    return ChatSettings(
        temperature=temperature,
        top_p=top_p,
        max_tokens=int(max_tokens or 1),
        seed=None if seed is None else int(seed),
        stop=tuple(line for line in (stop or "").splitlines() if line),
    )
