"""Messages: the shown branch of a conversation, and what can be done to each turn of it.

Knows widgets and where they stand. Does not know how branches or saved conversations work.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import streamlit as st

from phi3kit.conversations.chat_settings import ChatSettings
from phi3kit.conversations.conversation import ChatTurn, Conversation
from phi3kit.conversations.growing_answer import GrowingAnswer, Pending
from phi3kit.core.records import Message
from phi3kit.endpoints.targets import Target
from phi3kit.formats.chat_template import SPECIAL_TOKENS
from phi3kit.formats.openai_schema import DEFAULT_MAX_TOKENS
from phi3kit.ui.chat import copy_button, open_conversation, share
from phi3kit.ui.shared import answers, target_choice, theme, words
from phi3kit.ui.shared.literal import literal

USER, ASSISTANT = ":material/person:", ":material/neurology:"
EMPTY = "The message is empty. Write something and send it again."
_AT_ONCE = 30  # turns that are drawn; earlier ones at a click, because each has a row of buttons
_LONG_CHARACTERS = 3_000  # a longer message scrolls in a box
_SHOWN_SETTING = 40  # characters of one
_EDITING = "chat_editing"
_FIRST = "chat_first"  # the id of the first turn that is drawn, in the session's state


def show_context(conversation: Conversation, target: Target) -> None:
    """How much of the context the conversation fills; nothing before its first turn, or where the size is unknown."""
    counts = [turn.answer.total_tokens for turn in conversation.shown if turn.answer.total_tokens]
    if not counts or target.context_tokens is None:
        return
    used, context = counts[-1], target.context_tokens
    text = f"{used:,} of {context:,} tokens of context used"
    if used > context - DEFAULT_MAX_TOKENS:
        text += " · nearly full: start a new chat for long answers"
    st.progress(min(used / context, 1.0), text=text)


def show_header(conversation: Conversation, target: Target, settings: ChatSettings) -> None:
    """One line above the composer, always in view: who answers, where, the settings that are not the usual ones, and Stop."""
    parts = [literal(target.label, inside=True)]
    if conversation.turns:
        parts.append(f"**{literal(conversation.name, inside=True)}**")
    for name, value in settings.changed.items():
        text = ", ".join(value) if isinstance(value, list) else str(value)
        parts.append(f"{name.replace('_', ' ')}: {literal(words.shortened(text, _SHOWN_SETTING), inside=True)}")
    growing = open_conversation.pending() is not None
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"{theme.badge(target.wrapper)} :small[{' · '.join(parts)}]", width="stretch")
        answers.stop_button("stop_answer", open_conversation.stop_answer, off=not growing)


def show_turns(
    conversation: Conversation, turns: Sequence[ChatTurn], targets: Sequence[Target], target: Target, last: bool
) -> None:
    """Draw turns.

    targets: what an answer can be tried again on. target: the chosen one. last: the branch ends with these turns, and no
    answer is being written after them.
    """
    can_continue = target.connection is None or target.connection.protocol == "openai"
    first = _first_drawn(turns, may_move=not last)
    if first:
        more = min(first, _AT_ONCE)
        earlier = turns[first - more].turn_id
        st.button(
            f"Show {more} earlier turn{'s' if more > 1 else ''}",
            key="chat_earlier",
            type="tertiary",
            icon=":material/expand_less:",
            on_click=lambda: st.session_state.update({_FIRST: earlier}),
        )
        turns = turns[first:]
    # Before the turns: the answer that is being written and the finished one then stand in one place, one after the other.
    copy_button.listen({turn.turn_id: turn.answer_text for turn in turns})
    for turn in turns:
        at_end = last and turn is turns[-1]
        if editing() == turn.turn_id:
            _show_editing(turn)
        elif turn.text:
            _show_message(turn.text, turn, at_end)
        with st.chat_message("assistant", avatar=ASSISTANT):
            _show_answer(conversation, turn, targets, at_end and turn.cut and can_continue)


def show_read_only(turns: Sequence[ChatTurn]) -> None:
    """Draw turns with nothing that can be done to them."""
    for turn in turns:
        if turn.text:
            _show_message(turn.text)
        with st.chat_message("assistant", avatar=ASSISTANT):
            answers.show_text(turn)
            answers.show_cost(turn)


def editing() -> str | None:
    """The id of the turn whose message is being edited."""
    found: str | None = st.session_state.get(_EDITING)
    return found


def _first_drawn(turns: Sequence[ChatTurn], may_move: bool) -> int:
    """Where drawing begins. It stays while the conversation grows: the page must not move when an answer ends."""
    ids = [turn.turn_id for turn in turns]
    first = st.session_state.get(_FIRST)
    at = ids.index(first) if first in ids else max(0, len(turns) - _AT_ONCE)
    if may_move and len(turns) - at > 2 * _AT_ONCE:
        at = len(turns) - _AT_ONCE
    st.session_state[_FIRST] = ids[at] if ids else None
    return at


def ask(conversation: Conversation, question: Pending, settings: ChatSettings, target: Target) -> bool:
    """Send a question, unless it was sent already, and let the answer grow on the page; whether it has ended."""
    if question.text:
        _show_message(question.text)
    with st.chat_message("assistant", avatar=ASSISTANT):
        if question.answer is None:
            question.answer = _send(conversation, question, settings, target)
        open_conversation.keep_growing(conversation, question)
        return answers.follow(question.answer)


def _send(conversation: Conversation, question: Pending, settings: ChatSettings, target: Target) -> GrowingAnswer:
    target = next((each for each in target_choice.available() if each.model_uri == question.model_uri), target)
    prompt = conversation.messages(settings.system_prompt, question.text, question.parent)
    begun = ""
    if question.continues:
        begun = question.continues.answer_text.rstrip("\ufffd")  # the cut may have gone through a character
        prompt = (*prompt, Message("assistant", begun))
    request = replace(settings.request(prompt), continues=question.continues is not None)
    add = open_conversation.adder(conversation, question)
    return answers.begin_turn(target, request, question.text, conversation.id, add, begun)


def _show_message(text: str, turn: ChatTurn | None = None, at_end: bool = False) -> None:
    """A person's message, as text; with a turn it can be edited."""
    with st.chat_message("user", avatar=USER):
        if is_long := len(text) > _LONG_CHARACTERS:
            with st.container(height=240, border=False):
                st.text(text)
            st.caption(f"{len(text):,} characters")
        with st.container(horizontal=True, vertical_alignment="top"):
            if not is_long:
                st.text(text, width="stretch")
            if turn:
                what = "Edit and send again. This version is kept as a branch."
                shortcut = "Ctrl+Up" if at_end else None
                begin = partial(st.session_state.update, {_EDITING: turn.turn_id})
                _button("edit", turn, ":material/edit:", what, begin, shortcut=shortcut)
        if special := [token for token in SPECIAL_TOKENS if token in text]:
            st.caption(f"{' '.join(map(literal, special))} is read as text here, not as structure.")


def _show_answer(conversation: Conversation, turn: ChatTurn, targets: Sequence[Target], can_continue: bool) -> None:
    """An answer, its cost, and what can be done with it."""
    answers.show_text(turn)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        answers.show_cost(turn)
        with st.container(horizontal=True, vertical_alignment="center", gap="small", width="content"):
            _show_branches(conversation, turn)
            if turn.answer_text and copy_button.show_button(turn.turn_id):
                _copy_by_hand(turn.answer_text)
            if turn.text:
                label = "" if turn.answer_text or turn.error else "Answer"
                what = (
                    "Answer again, with the same model and the chosen settings. This answer is kept as a branch. "
                    "At temperature 0 the same model gives the same answer."
                )
                again = partial(open_conversation.ask, Pending(turn.text, turn.parent, model_uri=turn.model_uri))
                _button("again", turn, ":material/refresh:", what, again, label)
            if can_continue:
                go_on = partial(open_conversation.ask, Pending(turn.text, turn.parent, continues=turn))
                _button("continue", turn, ":material/resume:", "Continue the answer.", go_on, "Continue")
            _show_menu(conversation, turn, targets)


def _button(
    name: str, turn: ChatTurn, icon: str, what: str, act: Callable[[], None], label: str = "", **more: Any
) -> None:
    """A quiet button of a turn. more: of st.button."""
    st.button(label, key=f"{name}_{turn.turn_id}", type="tertiary", icon=icon, help=what, on_click=act, **more)


def _show_branches(conversation: Conversation, turn: ChatTurn) -> None:
    """‹ 2 of 3 ›, where there is more than one."""
    ids = [each.turn_id for each in conversation.siblings(turn)]
    if len(ids) < 2:
        return
    at, growing = ids.index(turn.turn_id), open_conversation.pending() is not None

    def step_button(step: int, icon: str, what: str) -> None:
        switch = partial(_switch, conversation, ids[(at + step) % len(ids)])
        _button(f"branch_{step}", turn, icon, what, switch, disabled=growing or not 0 <= at + step < len(ids))

    with st.container(horizontal=True, vertical_alignment="center", gap=None, width="content"):
        step_button(-1, ":material/chevron_left:", "Earlier version")
        st.caption(f"{at + 1} of {len(ids)}", width="content")
        step_button(1, ":material/chevron_right:", "Later version")


def _show_menu(conversation: Conversation, turn: ChatTurn, targets: Sequence[Target]) -> None:
    """The rarer actions."""
    others = {
        f"Retry on {target.wrapper} · {target.label}": target.model_uri
        for target in targets
        if target.model_uri != turn.model_uri
    }
    can_retry = list(others)[:5] if turn.text else []
    code = [] if turn.imported else ["Code and JSON"]
    chosen = st.menu_button(
        "", [*can_retry, *code, "Delete"], key=f"more_{turn.turn_id}", type="tertiary", icon=":material/more_horiz:",
        help="More",
    )  # fmt: skip
    if chosen == "Delete":
        _confirm_delete(conversation, turn)
    elif chosen == "Code and JSON":
        share.show_turn_code(turn)
    elif chosen in others:
        open_conversation.ask(Pending(turn.text, turn.parent, model_uri=others[chosen]))
        st.rerun()


def _show_editing(turn: ChatTurn) -> None:
    """A message being edited, in its place."""
    key = f"edited_{turn.turn_id}"

    def send() -> None:
        text = str(st.session_state.get(key) or "")
        if text.strip():
            open_conversation.ask(Pending(text, turn.parent))
        else:
            open_conversation.note(EMPTY)

    with st.chat_message("user", avatar=USER), st.form(f"edit_form_{turn.turn_id}", border=False):
        st.text_area("Message", turn.text, key=key, label_visibility="collapsed", height="content")
        with st.container(horizontal=True):
            st.form_submit_button(theme.on_primary("Send"), type="primary", icon=":material/send:", on_click=send)
            st.form_submit_button("Cancel", on_click=lambda: st.session_state.pop(_EDITING, None))
            st.caption("Ctrl + Enter sends. The previous version is kept as a branch.", width="content")


def _switch(conversation: Conversation, turn_id: str) -> None:
    st.session_state.pop(_EDITING, None)
    conversation.show(turn_id)
    conversation.unsaved = True  # which branch is shown is kept too


@st.dialog("Copy the answer", icon=":material/content_copy:", on_dismiss="rerun")
def _copy_by_hand(text: str) -> None:
    st.caption("This browser blocks access to the clipboard here. The button in the corner may still work.")
    st.code(text, language=None, wrap_lines=True, height=320)


@st.dialog("Delete this turn?", icon=":material/delete:", on_dismiss="rerun")
def _confirm_delete(conversation: Conversation, turn: ChatTurn) -> None:
    behind = len(conversation.subtree(turn.turn_id)) - 1
    also = f" and its {behind} follow-up{'s' if behind > 1 else ''}" if behind else ""
    st.markdown(f"This permanently deletes the message and its answer{also}, here and on the server.")

    def delete() -> None:
        stopped = open_conversation.stop_answer()  # it may go on from this turn
        open_conversation.store().remove(conversation, turn.turn_id)
        if stopped:
            open_conversation.note(open_conversation.STOPPED)

    with st.container(horizontal=True):
        gone = st.button(
            theme.destructive("Delete"),
            icon=":material/delete:",
            key="delete_turn",
            on_click=open_conversation.attempt,
            args=(delete,),
        )
        if st.button("Keep", key="keep_turn") or gone:
            st.rerun()
