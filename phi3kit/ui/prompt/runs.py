"""Runs: what was sent in this session and what came back, two of them compared, and a flaw tried on the prompt.

Knows widgets and the order of drawing. Does not know which flaws there are.
"""

from dataclasses import replace

import streamlit as st

from phi3kit.conversations.conversation import ChatTurn, Conversation
from phi3kit.conversations.growing_answer import GrowingAnswer
from phi3kit.endpoints.records import Request
from phi3kit.endpoints.targets import Target
from phi3kit.formats.prompt_flaws import flawed
from phi3kit.formats.tokens import Tokenized, common_beginning
from phi3kit.ui.prompt import editor
from phi3kit.ui.shared import answers, resources, text_diff, theme, words

_OPEN_RUNS = 2  # beside the newest
_SHOWN_CHARACTERS = 20_000  # of a prompt
_COMPARED = "prompt_diff"  # the ids of the two turns to compare, in the session's state
_GROWING = "prompt_answer"


def send(target: Target, request: Request, prompt: str, runs: Conversation) -> None:
    """Ask; the answer is kept among the runs, however it ends and whichever page is open."""
    if before := growing():
        before.stop()
    request = replace(request, prompt=prompt)
    st.session_state[_GROWING] = answers.begin_turn(target, request, prompt, runs.id, runs.turns.append)


def growing() -> GrowingAnswer | None:
    """The answer that is being written."""
    answer: GrowingAnswer | None = st.session_state.get(_GROWING)
    return None if answer is None or answer.ended else answer


def follow(answer: GrowingAnswer) -> bool:
    """Let an answer grow, below the button that stops it; whether it has ended."""
    answers.stop_button(f"stop_{answer.lane.context.turn_id}", answer.stop)
    return answers.follow(answer)


def show_variants(target: Target, request: Request, prompt: str, tokens: Tokenized | None, runs: Conversation) -> None:
    """The prompt with one flaw: its tokens at once, its answer beside the right one's at a click."""
    variants = flawed(prompt)
    if not variants:
        st.caption("Write a prompt with the template's parts. Then you can try common flaws on it here.")
        return
    name = st.selectbox("What if there were …", list(variants), key="prompt_variant")
    variant = variants.get(name or "", prompt)
    text_diff.show_diff(prompt, variant, "prompt_variant_diff", names=("yours", "the variant"))
    other = editor.tokenized(target, variant)
    if tokens and other:
        if [token.id for token in tokens.tokens] == [token.id for token in other.tokens]:
            st.markdown(":material/check: Same tokens: the model cannot see the difference.")
        else:
            same = common_beginning(tokens.tokens, other.tokens)
            st.markdown(f"Different tokens: {tokens.count:,} → {other.count:,}, the same up to token {same:,}.")
    fits = all(each is None or each.count < each.context_tokens for each in (tokens, other))
    if st.button("Ask both", icon=":material/compare_arrows:", key="prompt_ask_both", disabled=not fits):
        place = st.empty()
        for text in (prompt, variant):
            send(target, request, text, runs)
            with place.container(border=True):
                follow(st.session_state[_GROWING])
        resources.forget_lists()
        st.session_state[_COMPARED] = [turn.turn_id for turn in runs.turns[-2:]]
        st.rerun()


def show_difference(runs: Conversation) -> None:
    """Two runs of this session, their prompts and answers as word diffs."""
    turns = {turn.turn_id: turn for turn in runs.turns}
    if len(turns) < 2:
        return
    ids = list(turns)
    names = {turn_id: f"{number} · {turns[turn_id].wrapper}" for number, turn_id in enumerate(ids, start=1)}
    compared = [each for each in st.session_state.get(_COMPARED, []) if each in turns]
    defaults = dict(zip("AB", compared if len(compared) == 2 else ids[-2:], strict=True))
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            st.markdown("**Two runs compared**", width="content")
            picked = [
                st.selectbox(
                    letter, ids, index=ids.index(default), format_func=lambda each: names[each],
                    key=f"prompt_diff_{letter}_{default}", width=170,
                )
                for letter, default in defaults.items()
            ]  # fmt: skip
        a, b = (turns[each or ids[-1]] for each in picked)
        st.caption("Answers")
        text_diff.show_diff(a.answer.text, b.answer.text, "prompt_diff_answers")
        if a.text != b.text:
            st.caption("Prompts")
            text_diff.show_diff(a.text, b.text, "prompt_diff_prompts")
        for letter, turn in (("A", a), ("B", b)):
            st.markdown(f"{letter} {theme.badge(turn.wrapper or 'remote')} :gray[:small[{answers.cost(turn.answer)}]]")


def show_newest(runs: Conversation) -> None:
    """What was sent last and what came back; nothing before the first time."""
    if runs.turns:
        _show_run(len(runs.turns), runs.turns[-1])


def show_earlier(runs: Conversation) -> None:
    """What was sent before, newest first; older ones folded away."""
    numbered = list(enumerate(runs.turns, start=1))[-2::-1]
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
        st.code(words.shortened(turn.text, _SHOWN_CHARACTERS), language=None, wrap_lines=True)
        answers.show_answer(turn, key=f"prompt_{number}")
        st.button(
            "Edit again", key=f"prompt_again_{number}", type="tertiary", icon=":material/edit:",
            on_click=editor.set_text, args=(turn.text,),
        )  # fmt: skip
