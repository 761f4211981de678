"""Editor: the raw prompt's text, how much of the context it fills, and what the chat template makes of it.

Knows widgets. Does not know how a prompt is cut into tokens, read or written.
"""

import json
from collections.abc import Sequence

import streamlit as st
from pydantic import TypeAdapter, ValidationError

from phi3kit.core.records import Message
from phi3kit.endpoints import client
from phi3kit.endpoints.targets import Target
from phi3kit.formats import chat_template
from phi3kit.formats.openai_schema import ChatMessage
from phi3kit.formats.raw_prompt import Finding, ParsedPrompt, parse_raw_prompt, place
from phi3kit.formats.tokens import Tokenized
from phi3kit.ui.prompt import token_view
from phi3kit.ui.shared import live_text, resources, words
from phi3kit.ui.shared.literal import literal

PARTS = {  # label: the text, and what it does
    "system": ("<|system|>\n", "Opens the system turn."),
    "user": ("<|user|>\n", "Opens a user turn."),
    "assistant": ("<|assistant|>\n", "Opens the assistant's turn: the model continues from here."),
    "end": ("<|end|>\n", "Closes a turn."),
}
EXAMPLES = {"One question": chat_template.EXAMPLE, "The chapter's comedian": chat_template.CHAPTER_EXAMPLE}
_KEY = "raw_prompt"
_SHOWN_CHARACTERS = 20_000  # of a prompt
_WEIGHTS = {
    "harmless": ":material/info:",
    "changes": ":yellow[:material/warning:]",
    "breaks": ":red[:material/error:]",
}
_MESSAGES = TypeAdapter(list[ChatMessage])
_SAMPLE = (Message("user", "What is the capital of Spain?"),)


def show_editor() -> str:
    """The template's parts and the examples as buttons, and the text area; its text."""
    with st.container(horizontal=True):
        for label, (part, effect) in PARTS.items():
            st.button(label, key=f"part_{label}", on_click=_append, args=(part,), help=effect)
        for label, example in EXAMPLES.items():
            st.button(label, key=f"example_{label}", type="tertiary", on_click=set_text, args=(example,))
    return live_text.text_area("Raw prompt", key=_KEY, height=260, placeholder=chat_template.EXAMPLE)


def set_text(text: str) -> None:
    """Put another text into the text area; before it is drawn."""
    st.session_state[_KEY] = text


def _append(part: str) -> None:
    st.session_state[_KEY] = (st.session_state.get(_KEY) or "") + part


def tokenized(target: Target, prompt: str) -> Tokenized | None:
    """The prompt in the target's own tokens; None for a remote endpoint. Raises WorkerFailed or RequestInvalid."""
    if target.connection:
        return None
    with st.spinner("Loading the model, to count with its own tokenizer", show_time=True):
        return client.tokenize(resources.endpoint(target), prompt)


def show_count(tokens: Tokenized | None, max_tokens: int) -> bool:
    """How much of the context the prompt fills; whether there is room for an answer."""
    if tokens is None:
        st.caption("A remote endpoint counts its tokens itself. They appear below its answer.")
        return True
    return token_view.show_meter(tokens, max_tokens, "prompt_meter")


def show_messages(prompt: str) -> None:
    """What the template makes of the prompt: its flaws, its messages, and the way back."""
    parsed = parse_raw_prompt(prompt)
    if prompt:
        if not parsed.findings:
            st.markdown(":material/check: Matches the template.")
        for finding in parsed.findings:
            st.markdown(_sentence(finding, prompt))
        _show_turns(parsed)
    else:
        st.caption("The prompt's messages appear here, and where it differs from the template.")
    if parsed.messages and _rendered(parsed) != prompt:
        st.button(
            "Rewrite to match the template", icon=":material/auto_fix_high:", key="prompt_rewrite",
            on_click=_rewrite,
            help="Uses the messages above. Text outside of turns is dropped.",
        )  # fmt: skip
    with st.expander("From OpenAI messages", icon=":material/data_object:", key="prompt_from_messages"):
        st.text_area(
            "Messages", key="prompt_messages", height=140, persist_state="session", placeholder=_as_json(_SAMPLE)
        )
        st.button("Convert to a raw prompt", key="prompt_write", on_click=_write_from_messages)
        if problem := st.session_state.get("prompt_messages_problem"):
            st.caption(f":red[:material/error:] {literal(problem)}")


def _rewrite() -> None:
    """The text as it is now, which may be newer than the messages on the page."""
    set_text(_rendered(parse_raw_prompt(st.session_state.get(_KEY) or "")))


def _rendered(parsed: ParsedPrompt) -> str:
    return chat_template.raw_prompt(parsed.messages) + (parsed.begun_answer or "")


def _sentence(finding: Finding, prompt: str) -> str:
    line, column = place(prompt, finding.at)
    fix = f" **{literal(finding.fix)}**" if finding.fix else ""
    return (
        f"{_WEIGHTS[finding.weight]} **{literal(finding.what)}** {literal(finding.effect)}{fix} "
        f":gray[line {line}, column {column}]"
    )


def _show_turns(parsed: ParsedPrompt) -> None:
    for message in parsed.messages:
        st.caption(message.role)
        st.text(words.shortened(message.content, _SHOWN_CHARACTERS) or "(empty)")
    if parsed.begun_answer is not None:
        st.caption("assistant (the model continues here)")
        if parsed.begun_answer.strip():
            st.text(words.shortened(parsed.begun_answer, _SHOWN_CHARACTERS))
    if parsed.messages:
        with st.expander("As JSON", key="prompt_as_json"):
            st.code(words.shortened(_as_json(parsed.messages), _SHOWN_CHARACTERS), language="json", wrap_lines=True)


def _write_from_messages() -> None:
    """The text area's messages as a raw prompt, or why they are none."""
    problem = None
    try:
        given = json.loads(st.session_state.get("prompt_messages") or "")
        given = given["messages"] if isinstance(given, dict) and "messages" in given else given
        messages = _MESSAGES.validate_python(given)
        set_text(chat_template.raw_prompt([message.as_message() for message in messages]))
    except json.JSONDecodeError as error:
        problem = f"This is not JSON: line {error.lineno}, column {error.colno}: {error.msg}."
    except RecursionError:
        problem = "This is not JSON."
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        problem = f"messages{where}: {first['msg']}. A message has role (system, user or assistant) and content."
    st.session_state["prompt_messages_problem"] = problem


def _as_json(messages: Sequence[Message]) -> str:
    return json.dumps([{"role": each.role, "content": each.content} for each in messages], ensure_ascii=False, indent=2)
