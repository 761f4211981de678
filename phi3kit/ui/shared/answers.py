"""Talk: what Chat and Prompt share: parameters, a streaming answer, its caption.

Knows widgets and the order of drawing. What a turn is and costs, the client knows.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from phi3kit.conversations.chat_settings import MAX_SEED, MIN_TOP_P, ChatSettings
from phi3kit.conversations.conversation import ChatTurn, Conversation
from phi3kit.core.errors import Phi3KitError
from phi3kit.core.records import Message, TurnRecord
from phi3kit.endpoints import client
from phi3kit.endpoints.records import Answer, Request, TurnContext
from phi3kit.endpoints.targets import Target
from phi3kit.formats.openai_schema import DEFAULT_MAX_TOKENS, ChoicePart, new_id, response, usage
from phi3kit.ui.shared import resources, shell, theme
from phi3kit.usage.outbox import Outbox

_CONTEXT_TOKENS = 131_072  # the most that may be asked of an endpoint that does not say its context
_DRAW_EVERY_S = 0.04  # a small model writes thousands of tokens a second; a browser needs 25 pictures


def parameters(key: str, target: Target, prompt: tuple[Message, ...] | str) -> Request:
    """A request with the parameters set in a popover."""
    with st.popover("Parameters", icon=":material/tune:"):
        return parameter_widgets(key, target).request(prompt)


def parameter_widgets(key: str, target: Target) -> ChatSettings:
    """The parameters' widgets, and what they are set to; no system prompt. Their keys are the settings' names."""
    plain, context_tokens = ChatSettings(), target.context_tokens or _CONTEXT_TOKENS
    for name, value in (
        ("temperature", plain.temperature),
        ("top_p", plain.top_p),
        ("max_tokens", min(plain.max_tokens, context_tokens)),
    ):
        st.session_state.setdefault(f"{key}_{name}", value)
    # Another model may hold less than the one before it.
    st.session_state[f"{key}_max_tokens"] = min(st.session_state[f"{key}_max_tokens"] or 1, context_tokens)
    temperature = st.slider(
        "Temperature",
        0.0,
        2.0,
        step=0.05,
        key=f"{key}_temperature",
        persist_state="session",
        help="0 always takes the likeliest token.",
    )
    top_p = st.slider(
        "Top p",
        MIN_TOP_P,
        1.0,
        step=0.05,
        key=f"{key}_top_p",
        persist_state="session",
        help="Sample from the likeliest tokens up to this share.",
    )
    max_tokens = st.number_input(
        "Max tokens",
        1,
        context_tokens,
        step=1,
        key=f"{key}_max_tokens",
        persist_state="session",
        help="Of the answer alone.",
    )
    seed = st.number_input(
        "Seed",
        0,
        MAX_SEED,
        None,
        key=f"{key}_seed",
        persist_state="session",
        placeholder="random",
        help="The same seed draws the same answer.",
    )
    stop = st.text_area(
        "Stop strings",
        key=f"{key}_stop",
        persist_state="session",
        placeholder="one a line",
        height=80,
        help="The answer ends before them.",
    )
    return ChatSettings(
        temperature=temperature,
        top_p=top_p,
        max_tokens=int(max_tokens or 1),
        seed=None if seed is None else int(seed),
        stop=tuple(line for line in (stop or "").splitlines() if line),
    )


def run_turn(
    target: Target,
    request: Request,
    text: str,
    conversation_id: str,
    keep: Callable[[ChatTurn], None],
    begun: str = "",
) -> None:
    """Stream an answer into the page; `keep` gets the turn however it ends: done, failed, or stopped by the reader.

    text: what the person wrote (the message, or the raw prompt itself). begun: what the answer goes on from.
    """
    context = TurnContext(resources.actor(), origin="ui", conversation_id=conversation_id)
    place, stopping = st.empty(), st.empty()
    # A click runs the page anew; this run ends at its next use of st, and what came so far is kept.
    stopping.button("Stop", icon=":material/stop_circle:", key=f"stop_{context.turn_id}", shortcut="Escape")
    answer, error = Answer(), None
    steps = None
    try:
        with place.status("Starting the worker", type="compact") as waiting:
            endpoint = resources.endpoint(target, lambda what: waiting.update(label=f"{what} ({target.wrapper})"))
            steps = client.stream(endpoint, request, context, resources.settings())
            for answer in steps:
                if answer.completion_tokens or answer.text:
                    break
                before = answer.queue_place
                waiting.update(label=f"Waiting; {before} before you" if before else "Reading the prompt")
        drawn_at = 0.0
        for answer in steps:
            if time.monotonic() - drawn_at >= _DRAW_EVERY_S:
                place.markdown(shell.safe_markdown(begun + answer.text))
                drawn_at = time.monotonic()
    except Phi3KitError as caught:
        error = caught
    finally:
        # A stop or a click elsewhere raises a BaseException at the next use of st, st.session_state included:
        # what came so far is kept here, without it.
        if steps is not None:
            steps.close()
        if answer.finish_reason is None:
            answer = replace(answer, finish_reason="error" if error else "cancelled")
        keep(ChatTurn(text, answer, request, target.model_uri, target.wrapper, context.turn_id, error))
    place.empty()
    stopping.empty()


def settle(conversation: Conversation) -> None:
    """Before turns are drawn: a stopped one takes the counts that its worker logged."""
    outbox = Outbox(resources.settings().home)

    def find_soon(turn_id: str) -> TurnRecord | None:
        for _ in range(60):  # the worker notices within milliseconds that its reader has gone
            if record := outbox.find(turn_id):
                return record
            time.sleep(0.05)
        return None

    conversation.settle(find_soon)


def show_answer(turn: ChatTurn, key: str) -> None:
    """An answer, its error if it has one, its caption, and both JSONs."""
    show_text(turn)
    with st.container(horizontal=True, vertical_alignment="center"):
        show_cost(turn)
        with st.popover("JSON", icon=":material/data_object:", type="tertiary", key=f"{key}_json"):
            st.caption("Request")
            st.json(turn.request.body(turn.model_uri), expanded=2)
            st.caption("Response; of a streamed answer, its chunks put together")
            st.json(response_json(turn), expanded=2)


def show_text(turn: ChatTurn) -> None:
    """An answer, and its error if it has one."""
    if turn.answer_text:
        st.markdown(shell.safe_markdown(turn.answer_text))
    if turn.error:
        shell.show_error(turn.error, "The answer broke off." if turn.answer_text else "There is no answer.")


def show_cost(turn: ChatTurn) -> None:
    """Who answered and what it cost, in one line."""
    said = "imported" if turn.wrapper is None else f"{theme.badge(turn.wrapper)} {caption(turn.answer)}"
    st.caption(said, width="content")


def show_context(conversation: Conversation, target: Target, place: DeltaGenerator) -> None:
    """How much of the context the conversation fills, as a meter; nothing before its first turn or without its size."""
    counted = [turn for turn in conversation.shown if turn.answer.total_tokens]
    if not counted or target.context_tokens is None:
        return
    used = counted[-1].answer.total_tokens
    text = f"{used:,} of {target.context_tokens:,} tokens of context used"
    if used > target.context_tokens - DEFAULT_MAX_TOKENS:
        text += " · nearly full: start a new chat for long answers"
    place.progress(min(used / target.context_tokens, 1.0), text=text)


def caption(answer: Answer) -> str:
    """What an answer cost, in one line."""
    parts = [
        f"{answer.prompt_tokens:,} + {answer.completion_tokens:,} = {answer.total_tokens:,} tokens"
        if answer.tokens_counted
        else "the endpoint gave no token counts"
    ]
    if answer.cached_prompt_tokens:
        parts.append(f"{answer.cached_prompt_tokens:,} of the prompt cached")
    if answer.time_to_first_token_s is not None:
        parts.append(f"first token {shell.seconds(answer.time_to_first_token_s)}")
    elif answer.text:
        parts.append(f"whole answer after {shell.seconds(answer.duration_s)}")
    if answer.tokens_per_second is not None:
        parts.append(f"{answer.tokens_per_second:,.0f} tokens/s")
    reason = "no known finish reason" if answer.finish_reason == "other" else answer.finish_reason or ""
    return " · ".join([*parts, reason])


def response_json(turn: ChatTurn) -> dict[str, object]:
    """The answer in OpenAI's form."""
    chat = turn.request.interface == "openai"
    answer = turn.answer
    tokens = usage(answer.prompt_tokens, answer.completion_tokens, answer.cached_prompt_tokens)
    choices = [ChoicePart(0, answer.text, answer.finish_reason)]
    return response(new_id("chatcmpl" if chat else "cmpl"), turn.model_uri, choices, tokens, chat)
