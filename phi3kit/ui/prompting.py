"""Prompting: the raw editor's buttons, its token count, and the list of what came back.

Knows the template's parts by name; their text is the chat template's.
"""

import streamlit as st

from phi3kit import chat_template, client
from phi3kit.conversation import Conversation
from phi3kit.targets import Target
from phi3kit.ui import resources, talk

PARTS = {
    "system": "<|system|>\n",
    "user": "<|user|>\n",
    "assistant": "<|assistant|>\n",
    "end": "<|end|>\n",
}
HELP = {
    "system": "Opens the system turn.",
    "user": "Opens a user turn.",
    "assistant": "Opens the assistant's turn: the model writes on from here.",
    "end": "Closes a turn.",
}
EXAMPLES = {"One question": chat_template.EXAMPLE, "The chapter's comedian": chat_template.CHAPTER_EXAMPLE}
_KEY = "raw_prompt"


def insert(part: str) -> None:
    """Put a part of the template behind the text."""
    st.session_state[_KEY] = (st.session_state.get(_KEY) or "") + part


def replace(text: str) -> None:
    """Put an example in the place of the text."""
    st.session_state[_KEY] = text


def show_count(target: Target, prompt: str) -> bool:
    """Prompt tokens of the context, as a meter; whether there is room for an answer."""
    if target.connection:
        st.caption("A remote endpoint counts its tokens itself: they stand under its answer.")
        return True
    assert target.context_tokens is not None
    if not prompt:
        st.progress(0.0, text=f"0 of {target.context_tokens:,} tokens")
        return True
    with st.spinner("Loading the model, to count with its own tokenizer"):
        count = client.count_tokens(resources.endpoint(target), prompt)
    fits = count < target.context_tokens
    room = f"{target.context_tokens - count:,} left for the answer" if fits else "too long: shorten it to send it"
    st.progress(min(count / target.context_tokens, 1.0), text=f"{count:,} of {target.context_tokens:,} tokens · {room}")
    return fits


def show_runs(runs: Conversation) -> None:
    """What was sent and what came back, newest first."""
    for number, turn in reversed(list(enumerate(runs.turns))):
        with st.container(border=True):
            st.code(turn.text, language=None, wrap_lines=True)
            talk.show_answer(turn, key=f"prompt_{number}")
