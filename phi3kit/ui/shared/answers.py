"""Answers: an answer as it streams in, and when it has ended: its text, error, cost and JSON.

Knows the order of drawing. Does not know how a turn is sent, counted or logged.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from phi3kit.conversations.conversation import ChatTurn, Conversation
from phi3kit.conversations.growing_answer import GrowingAnswer
from phi3kit.core.errors import TryLater
from phi3kit.core.records import TurnRecord
from phi3kit.endpoints import targets
from phi3kit.endpoints.lanes import Lane
from phi3kit.endpoints.records import Answer, Request, TurnContext
from phi3kit.endpoints.targets import Target
from phi3kit.formats.openai_schema import ChoicePart, new_id, response, usage
from phi3kit.formats.safe_markdown import for_pages
from phi3kit.ui.shared import resources, shell, theme, words
from phi3kit.usage.outbox import Outbox

_SOON_S = 3.0
_OTHERS, _MOST_AT_ONCE = "answers", 4  # of a tab, in its session's state
_DRAW_EVERY_S = 0.04  # a small model writes thousands of tokens a second; a browser needs 25 pictures


def lane_to(target: Target, request: Request, conversation_id: str) -> Lane:
    """A request of this person to a target, to be started; its thread uses nothing of Streamlit."""
    shared, actor = resources.kit(), resources.actor()
    find = partial(targets.endpoint_of, target, shared.pool, resources.secrets(), actor, shared.settings)
    return Lane(find, request, TurnContext(actor, origin="ui", conversation_id=conversation_id), shared.settings)


def begin_turn(
    target: Target,
    request: Request,
    text: str,
    conversation_id: str,
    on_end: Callable[[ChatTurn], None],
    begun: str = "",
) -> GrowingAnswer:
    """Ask; the answer is written whichever page is open, and `on_end` gets the turn however it ends, in any thread.

    text: what the person wrote (the message, or the raw prompt itself). begun: what the answer goes on from.
    """
    others: list[GrowingAnswer] = st.session_state.setdefault(_OTHERS, [])
    others[:] = [each for each in others if not each.lane.done]
    if len(others) >= _MOST_AT_ONCE:  # stopped while their model was loading
        raise TryLater(
            "The message was not sent.", f"{len(others)} earlier ones are still waiting for a model.",
            "Send it again in a moment.", retry_after_s=5,
        )  # fmt: skip
    answer = GrowingAnswer(lane_to(target, request, conversation_id), target, text, on_end, begun)
    others.append(answer)
    answer.start()
    return answer


def stop_button(key: str, stop: Callable[[], object], *, off: bool = False) -> None:
    """The button that ends an answer that grows. It stands where the growing text does not move it."""
    on_click: Any = stop  # whose result nobody takes
    st.button(
        "Stop", icon=":material/stop_circle:", key=key, type="tertiary", shortcut="Escape", on_click=on_click, disabled=off,
        help="Keeps the text that has come so far.",
    )  # fmt: skip


def follow(answer: GrowingAnswer) -> bool:
    """Let an answer grow on the page; whether it has ended. A click, or another page, ends the drawing and not the answer.

    Under a dialog only what there is by now is drawn: clicks in a dialog wait until the page's run is over.
    """
    lane = answer.lane
    place = st.empty()
    drawn = ""
    dialog = _dialog_is_open()
    while not answer.ended:
        if answer.shown:
            if drawn != answer.shown:
                drawn = answer.shown
                place.markdown(for_pages(drawn))
        elif lane.waits_for and drawn != lane.waits_for:
            drawn = lane.waits_for
            place.status(drawn, type="compact")
        if dialog:
            return False
        _ = "conversation" in st.session_state  # a use of st, at which a click takes effect when nothing is drawn
        time.sleep(_DRAW_EVERY_S)
    lane.raise_bug()
    # The page's next run puts the finished answer where this one is: emptied before, it would vanish for a moment.
    if answer.shown:
        place.markdown(for_pages(answer.shown))
    else:
        place.empty()
    return True


def _dialog_is_open() -> bool:
    context = get_script_run_ctx()
    return context is not None and context.has_dialog_opened


def settle(conversation: Conversation) -> None:
    """Before turns are drawn: a stopped one takes the counts that its worker logged."""
    outbox = Outbox(resources.settings().home)
    ended_at = {turn.turn_id: turn.at for turn in conversation.turns}

    def find_soon(turn_id: str) -> TurnRecord | None:
        # A worker notices within milliseconds that its reader has gone; one that reads a long prompt, with a later draw.
        for _ in range(60):
            if (record := outbox.find(turn_id)) or time.time() - ended_at[turn_id] > _SOON_S:
                return record
            time.sleep(0.05)
        return None

    conversation.settle(find_soon)


def show_answer(turn: ChatTurn, key: str) -> None:
    """An answer, its error if it has one, its cost, and both JSONs."""
    show_text(turn)
    with st.container(horizontal=True, vertical_alignment="center"):
        show_cost(turn)
        with st.popover("JSON", icon=":material/data_object:", type="tertiary", key=f"{key}_json"):
            show_json(turn)


def show_text(turn: ChatTurn) -> None:
    """An answer, and its error if it has one."""
    if turn.answer_text:
        st.markdown(for_pages(turn.answer_text))
    if turn.error:
        shell.show_error(turn.error, "The answer was interrupted." if turn.answer_text else "There is no answer.")


def show_cost(turn: ChatTurn) -> None:
    """Who answered and what it cost, in one line."""
    if turn.wrapper is None:
        st.caption("imported", width="content")
    else:  # a caption would take contrast from the badge
        st.markdown(f"{theme.badge(turn.wrapper)} :gray[:small[{cost(turn.answer)}]]", width="content")


def show_json(turn: ChatTurn) -> None:
    """The request as it was sent, and the answer in OpenAI's form."""
    st.caption("Request")
    st.json(turn.request.body(turn.model_uri), expanded=2)
    st.caption("Response (stream merged)")
    chat, answer = turn.request.interface == "openai", turn.answer
    tokens = usage(answer.prompt_tokens, answer.completion_tokens, answer.cached_prompt_tokens)
    choices = [ChoicePart(0, answer.text, answer.finish_reason)]
    st.json(response(new_id("chatcmpl" if chat else "cmpl"), turn.model_uri, choices, tokens, chat), expanded=2)


def cost(answer: Answer) -> str:
    """What an answer cost, in one line."""
    parts = [
        f"{answer.prompt_tokens:,} + {answer.completion_tokens:,} = {answer.total_tokens:,} tokens"
        if answer.tokens_counted
        else "no token counts from the endpoint"
    ]
    if answer.cached_prompt_tokens:
        parts.append(f"{answer.cached_prompt_tokens:,} prompt tokens cached")
    if answer.time_to_first_token_s is not None:
        parts.append(f"first token {words.seconds(answer.time_to_first_token_s)}")
    elif answer.text:
        parts.append(f"complete after {words.seconds(answer.duration_s)}")
    if answer.tokens_per_second is not None:
        parts.append(f"{answer.tokens_per_second:,.0f} tokens/s")
    reason = "finish reason unknown" if answer.finish_reason == "other" else answer.finish_reason or ""
    return " · ".join([*parts, reason])
