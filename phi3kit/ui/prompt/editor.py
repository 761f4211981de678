"""Prompting: the raw editor, what stands in it as tokens and as messages, what a flaw does, and what came back.

Knows widgets. Tokens, messages, flaws and differences, the kit knows.
"""

import json
from collections.abc import Callable
from dataclasses import replace as changed

import streamlit as st
from pydantic import TypeAdapter, ValidationError

from phi3kit.conversations.conversation import ChatTurn, Conversation
from phi3kit.core.records import Message
from phi3kit.endpoints import client
from phi3kit.endpoints.records import Request
from phi3kit.endpoints.targets import Target
from phi3kit.formats import chat_template
from phi3kit.formats.openai_schema import ChatMessage
from phi3kit.formats.prompt_flaws import flawed
from phi3kit.formats.raw_prompt import Finding, ParsedPrompt, parse_raw_prompt, place
from phi3kit.formats.tokens import Tokenized, common_beginning
from phi3kit.ui.prompt import token_view
from phi3kit.ui.shared import answers, resources, theme
from phi3kit.ui.shared.literal import literal
from phi3kit.ui.shared.text_diff import show_diff

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
_WEIGHTS = {
    "harmless": ":material/info:",
    "changes": ":orange[:material/warning:]",
    "breaks": ":red[:material/error:]",
}
_OPEN_RUNS = 3
_SHOWN_CHARACTERS = 20_000  # of a prompt among the runs
_MESSAGES = TypeAdapter(list[ChatMessage])


def insert(part: str) -> None:
    """Put a part of the template behind the text."""
    st.session_state[_KEY] = (st.session_state.get(_KEY) or "") + part


def replace(text: str) -> None:
    """Put another text in the place of the text."""
    st.session_state[_KEY] = text


def show_parts() -> None:
    """The template's parts and the examples, as buttons."""
    with st.container(horizontal=True):
        for label, part in PARTS.items():
            st.button(label, key=f"part_{label}", on_click=insert, args=(part,), help=HELP[label])
        for label, example in EXAMPLES.items():
            st.button(label, key=f"example_{label}", type="tertiary", on_click=replace, args=(example,))


def tokenized(target: Target, prompt: str) -> Tokenized | None:
    """The prompt in the target's own tokens; None for a remote endpoint. Raises WorkerFailed or RequestInvalid."""
    if target.connection:
        return None
    with st.spinner("Loading the model, to count with its own tokenizer", show_time=True):
        return client.tokenize(resources.endpoint(target), prompt)


def show_count(found: Tokenized | None, max_tokens: int) -> bool:
    """How much of the context the prompt fills; whether there is room for an answer."""
    if found is None:
        st.caption("A remote endpoint counts its tokens itself: they stand under its answer.")
        return True
    return token_view.show_meter(found, max_tokens, "prompt_meter")


def show_tokens(found: Tokenized | None, prompt: str) -> None:
    """The token view."""
    if found is None:
        st.caption("A remote endpoint does not say how it cuts a text; choose a logged model to see tokens.")
        return
    token_view.show_tokens(found, prompt, "prompt_tokens")


def show_messages(prompt: str) -> None:
    """What the template makes of the prompt: its flaws, its messages, and the way back."""
    parsed = parse_raw_prompt(prompt)
    if prompt:
        _show_findings(parsed, prompt)
        _show_turns(parsed)
    else:
        st.caption("The prompt's messages stand here, and what in it is not as the template writes it.")
    rendered = chat_template.raw_prompt(parsed.messages) + (parsed.begun_answer or "")
    if parsed.messages and rendered != prompt:
        st.button(
            "Write it as the template does", icon=":material/auto_fix_high:", key="prompt_rewrite", on_click=replace,
            args=(rendered,), help="From the messages above; text outside of turns is left out.",
        )  # fmt: skip
    with st.expander("From messages in OpenAI's format", icon=":material/data_object:", key="prompt_from_messages"):
        st.text_area(
            "Messages", key="prompt_messages", height=140, persist_state="session", placeholder=_messages_json(_SAMPLE)
        )
        st.button("Write the raw prompt", key="prompt_write", on_click=_write_from_messages)
        if problem := st.session_state.get("prompt_messages_problem"):
            st.caption(f":red[:material/error:] {literal(problem)}")


def show_variants(target: Target, request: Request, prompt: str, found: Tokenized | None, runs: Conversation) -> None:
    """A flaw done to the prompt: its tokens at once, its answer beside the right one's at a click."""
    variants = flawed(prompt)
    if not variants:
        st.caption("Write a prompt with the template's parts; here one of its flaws can be tried on it.")
        return
    name = st.selectbox("What if there were …", list(variants), key="prompt_variant")
    text = variants.get(name or "", prompt)
    show_diff(prompt, text, "prompt_variant_diff", names=("yours", "the variant"))
    other = tokenized(target, text)
    if found and other:
        same = common_beginning(found.tokens, other.tokens)
        if [token.id for token in found.tokens] == [token.id for token in other.tokens]:
            st.markdown(":material/check: The same tokens: the model cannot see the difference.")
        else:
            st.markdown(f"Other tokens: {found.count:,} → {other.count:,}, alike up to token {same:,}.")
    fits = all(each is None or each.count < each.context_tokens for each in (found, other))
    if st.button("Ask both", icon=":material/compare_arrows:", key="prompt_ask_both", disabled=not fits):
        with st.container(border=True):
            for each in (prompt, text):
                _run(target, request, each, runs)
        st.session_state["prompt_diff"] = [runs.turns[-2].turn_id, runs.turns[-1].turn_id]
        resources.forget_lists()
        st.rerun()


def send(target: Target, request: Request, prompt: str, runs: Conversation) -> None:
    """Ask, and draw the answer while it comes."""
    _run(target, request, prompt, runs)
    resources.forget_lists()


def show_difference(runs: Conversation) -> None:
    """Two runs of this session, their prompts and answers as word diffs."""
    turns = {turn.turn_id: turn for turn in runs.turns}
    if len(turns) < 2:
        return
    names = {turn_id: f"{number} · {turn.wrapper}" for number, (turn_id, turn) in enumerate(turns.items(), start=1)}
    ids = list(turns)
    chosen = [each for each in st.session_state.get("prompt_diff", []) if each in turns]
    chosen = chosen if len(chosen) == 2 else ids[-2:]
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            st.markdown("**Two runs compared**", width="content")
            picked = [
                st.selectbox(
                    label, ids, index=ids.index(default), format_func=lambda each: names[each],
                    key=f"prompt_diff_{label}_{default}", width=170,
                )
                for label, default in zip(("A", "B"), chosen, strict=True)
            ]  # fmt: skip
        a, b = (turns[each or ids[-1]] for each in picked)
        st.caption("Answers")
        show_diff(a.answer.text, b.answer.text, "prompt_diff_answers")
        if a.text != b.text:
            st.caption("Prompts")
            show_diff(a.text, b.text, "prompt_diff_prompts")
        for letter, turn in (("A", a), ("B", b)):
            st.caption(f"{letter} {theme.badge(turn.wrapper or 'remote')} {answers.caption(turn.answer)}")


def show_runs(runs: Conversation) -> None:
    """What was sent and what came back, newest first; older ones folded away."""
    numbered = list(enumerate(runs.turns, start=1))[::-1]
    for number, turn in numbered[:_OPEN_RUNS]:
        _show_run(number, turn)
    if older := numbered[_OPEN_RUNS:]:
        folded = st.expander(f"{len(older):,} earlier", key="prompt_earlier", on_change="rerun")
        if folded.open:
            with folded:
                for number, turn in older:
                    _show_run(number, turn)


def _show_run(number: int, turn: ChatTurn) -> None:
    with st.container(border=True):
        st.caption(f"Run {number}")
        st.code(_cut(turn.text), language=None, wrap_lines=True)
        answers.show_answer(turn, key=f"prompt_{number}")
        st.button(
            "Edit again", key=f"prompt_again_{number}", type="tertiary", icon=":material/edit:", on_click=replace,
            args=(turn.text,),
        )  # fmt: skip


_SAMPLE = (Message("user", "What is the capital of Spain?"),)


def _run(target: Target, request: Request, prompt: str, runs: Conversation) -> None:
    keep: Callable[[ChatTurn], None] = runs.turns.append
    answers.run_turn(target, changed(request, prompt=prompt), prompt, runs.id, keep)


def _show_findings(parsed: ParsedPrompt, prompt: str) -> None:
    if not parsed.findings:
        st.markdown(":material/check: As the template writes it.")
    for finding in parsed.findings:
        st.markdown(_said(finding, prompt))


def _said(finding: Finding, prompt: str) -> str:
    line, column = place(prompt, finding.at)
    fix = f" **{literal(finding.fix)}**" if finding.fix else ""
    return (
        f"{_WEIGHTS[finding.weight]} **{literal(finding.what)}** {literal(finding.effect)}{fix} "
        f":gray[line {line}, column {column}]"
    )


def _show_turns(parsed: ParsedPrompt) -> None:
    for message in parsed.messages:
        st.caption(message.role)
        st.text(_cut(message.content) or "(empty)")
    if parsed.begun_answer is not None:
        st.caption("assistant, here the model writes on")
        if parsed.begun_answer.strip():
            st.text(_cut(parsed.begun_answer))
    if parsed.messages:
        with st.expander("As JSON", key="prompt_as_json"):
            st.code(_cut(_messages_json(parsed.messages)), language="json", wrap_lines=True)


def _write_from_messages() -> None:
    """The text area's messages as a raw prompt, or why they are none."""
    st.session_state["prompt_messages_problem"] = None
    try:
        given = json.loads(st.session_state.get("prompt_messages") or "")
        given = given["messages"] if isinstance(given, dict) and "messages" in given else given
        messages = _MESSAGES.validate_python(given)
    except (json.JSONDecodeError, RecursionError) as error:
        at = (
            f" in line {error.lineno}, column {error.colno}: {error.msg}"
            if isinstance(error, json.JSONDecodeError)
            else ""
        )
        st.session_state["prompt_messages_problem"] = f"That is not JSON{at}."
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        st.session_state["prompt_messages_problem"] = (
            f"messages{where}: {first['msg']}. A message has role (system, user or assistant) and content."
        )
    else:
        replace(chat_template.raw_prompt([message.as_message() for message in messages]))


def _messages_json(messages: "tuple[Message, ...]") -> str:
    return json.dumps([{"role": each.role, "content": each.content} for each in messages], ensure_ascii=False, indent=2)


def _cut(text: str) -> str:
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return f"{text[:_SHOWN_CHARACTERS]}\n… and {len(text) - _SHOWN_CHARACTERS:,} characters more"
