"""Comparing: the sides of a comparison, their answers as they grow together, the vote, and who has won how often.

Knows widgets and the order of drawing. What a lane and a vote are, the kit knows.
"""

import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations

import pandas as pd
import streamlit as st

from phi3kit.conversations.comparison import LETTERS, Comparison
from phi3kit.conversations.conversation import ChatTurn, Conversation
from phi3kit.core.errors import Phi3KitError
from phi3kit.core.records import Interface
from phi3kit.endpoints import targets
from phi3kit.endpoints.lanes import Lane, stop_all
from phi3kit.endpoints.records import Request, TurnContext
from phi3kit.endpoints.targets import Target
from phi3kit.ui.shared import answers, resources, shell, target_choice, text_diff, theme
from phi3kit.usage.votes import Votes

_DRAW_EVERY_S = 1 / 15
_NO_LIMIT = 10**9


def choose_sides(count: int, interface: Interface) -> list[Target]:
    """What to compare, a chooser a side; none (and an empty state) when there is nothing to talk to."""
    found = target_choice.available()
    if not found:
        target_choice.nothing_yet()
        return []
    by_uri = {target.model_uri: target for target in found}
    chosen = []
    for letter, column, default in zip(LETTERS, st.columns(count), _defaults(found, count), strict=False):
        with column:
            uri = st.selectbox(
                letter,
                list(by_uri),
                index=list(by_uri).index(default.model_uri),
                format_func=lambda each: f"{by_uri[each].wrapper} · {by_uri[each].label}",
                key=f"compare_{letter}",
                help="A logged model, or a connection to a remote endpoint. The same one twice is fine.",
            )
            target = by_uri[uri]
            if note := target_choice.note(target, interface):
                st.caption(note)
            chosen.append(target)
    return chosen


def parameters(sides: Sequence[Target], separate: bool) -> list[Request]:
    """A request for each side, with the parameters of all or its own; the prompt is still to come."""
    if not separate:
        smallest = min(sides, key=lambda side: side.context_tokens or _NO_LIMIT)
        return [answers.parameters("compare", smallest, ())] * len(sides)
    requests = []
    for letter, side in zip(LETTERS, sides, strict=False):
        with st.container(horizontal=True, vertical_alignment="center", width="content"):
            st.markdown(f"**{letter}**", width="content")
            requests.append(answers.parameters(f"compare_{letter}", side, ()))
    return requests


def run(sides: Sequence[Target], requests: Sequence[Request], text: str, keep: Callable[[Comparison], None]) -> None:
    """Ask all sides at once and draw their answers as they grow.

    `keep` gets the comparison however it ends: done, failed, or stopped by the reader.
    """
    shared, keys, actor = resources.kit(), resources.secrets(), resources.actor()
    comparison_id = uuid.uuid4().hex
    lanes = [
        Lane(
            partial(targets.endpoint_of, side, shared.pool, keys, actor, shared.settings),
            request,
            TurnContext(actor, origin="ui", conversation_id=comparison_id),
            shared.settings,
        )
        for side, request in zip(sides, requests, strict=True)
    ]
    with st.container(border=True):
        st.text(text)
        # A click runs the page anew; this run ends at its next use of st, and what came so far is kept.
        st.button("Stop", icon=":material/stop_circle:", key=f"stop_{comparison_id}")
        places = []
        for letter, side, column in zip(LETTERS, sides, st.columns(len(sides)), strict=False):
            with column, st.container(border=True):
                _heading(letter, side)
                places.append(st.empty())
    try:
        for lane in lanes:
            lane.start()
        drawn = [""] * len(lanes)
        while not all(lane.done for lane in lanes):
            for index, (lane, place) in enumerate(zip(lanes, places, strict=True)):
                words = _words(lane)
                if words != drawn[index]:
                    place.markdown(words)
                    drawn[index] = words
            _ = "comparisons" in st.session_state  # a use of st, at which a stop takes effect when nothing is drawn
            time.sleep(_DRAW_EVERY_S)
    finally:
        # A stop raises a BaseException above, and would again at any use of st here.
        stop_all(lanes)
        turns = [_turn(text, side, lane) for side, lane in zip(sides, lanes, strict=True)]
        keep(Comparison(text, tuple(sides), Conversation(id=comparison_id, turns=turns)))


def show(comparison: Comparison, *, newest: bool) -> None:
    """A comparison that has ended: message, answers, the vote, their difference (unfolded in the newest one)."""
    answers.settle(comparison.answers)
    with st.container(border=True):
        st.text(comparison.text)
        sides = zip(LETTERS, comparison.targets, comparison.turns, st.columns(len(comparison.turns)), strict=False)
        for letter, side, turn, column in sides:
            with column, st.container(border=True, height="stretch"):
                _heading(letter, side)
                answers.show_answer(turn, key=f"{comparison.id}_{letter}")
        if comparison.votable:
            _vote(comparison)
            _difference(comparison, newest)


def show_tally() -> None:
    """How often each model has won; nothing before the first vote."""
    tally = Votes(resources.settings().home).tally()
    if not tally:
        return
    labels = {target.model_uri: target.label for target in target_choice.available()}
    with st.container(border=True):
        st.markdown("**Votes**")
        st.dataframe(
            pd.DataFrame(
                {
                    "wrapper": each.wrapper,
                    "model": labels.get(each.model_uri, each.model_uri),
                    "won": each.won,
                    "tied": each.tied,
                    "lost": each.lost,
                    "won, of all": each.won / each.votes,
                }
                for each in tally
            ),
            hide_index=True,
            column_config={"won, of all": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1)},
        )
        st.caption("Each vote is a tag, phi3kit.vote, on its turns' runs in MLflow.")


def _defaults(found: list[Target], count: int) -> list[Target]:
    """One of each wrapper first, then what is left."""
    first_of_each = {target.wrapper: target for target in reversed(found)}
    order = [*(first_of_each[name] for name in ("transformers", "onnx", "remote") if name in first_of_each)]
    order += [target for target in found if target not in order]
    return (order * count)[:count]


def _heading(letter: str, side: Target) -> None:
    st.markdown(f"**{letter}** {theme.badge(side.wrapper)} {shell.plain(side.label)}")


def _words(lane: Lane) -> str:
    """What to draw of a lane: its answer, what it waits for, or that it has failed."""
    if lane.answer.text:
        return shell.safe_markdown(lane.answer.text)
    if lane.error:
        return f":red[{shell.plain(lane.error.what)}]"
    return f":gray[:shimmer[{shell.plain(lane.waits_for)}]]" if lane.waits_for else ""


def _turn(text: str, side: Target, lane: Lane) -> ChatTurn:
    return ChatTurn(
        text, lane.settled_answer(), lane.request, side.model_uri, side.wrapper, lane.context.turn_id, lane.error,
        settled=not lane.sent,  # a request that was not sent has recorded nothing to wait for
    )  # fmt: skip


def _vote(comparison: Comparison) -> None:
    kept = Votes(resources.settings().home).of(comparison.id)
    if error := st.session_state.pop(f"vote_failed_{comparison.id}", None):
        shell.show_error(error)
    two = len(comparison.turns) == 2
    choices: dict[str, int | None] = {
        f"{letter} is {'better' if two else 'best'}": index
        for index, letter in enumerate(LETTERS[: len(comparison.turns)])
    }
    choices["Tie"] = None
    with st.container(horizontal=True, vertical_alignment="center"):
        for label, winner in choices.items():
            st.button(label, key=f"vote_{comparison.id}_{label}", on_click=_cast, args=(comparison, winner))
        if verdict := comparison.verdict(kept):
            st.caption(f":material/how_to_vote: You voted: {verdict}.", width="content")


def _difference(comparison: Comparison, unfolded: bool) -> None:
    """The word diff of two answers; of three, of the pair that is chosen."""
    letters = LETTERS[: len(comparison.turns)]
    pairs = {f"{a} and {b}": (letters.index(a), letters.index(b)) for a, b in combinations(letters, 2)}
    with st.expander("Word diff", icon=":material/difference:", expanded=unfolded):
        chosen = next(iter(pairs))
        if len(pairs) > 1:
            chosen = st.segmented_control("Of", list(pairs), default=chosen, required=True, key=f"diff_{comparison.id}")
        a, b = pairs[chosen]
        before, after = comparison.turns[a].answer.text, comparison.turns[b].answer.text
        text_diff.show_diff(before, after, f"{comparison.id}_{a}{b}", names=(letters[a], letters[b]))


def _cast(comparison: Comparison, winner: int | None) -> None:
    try:
        Votes(resources.settings().home).cast(comparison.id, comparison.votes(winner), resources.actor().name)
    except Phi3KitError as error:  # drawn beside the buttons: a callback's own drawing would shift the whole page
        st.session_state[f"vote_failed_{comparison.id}"] = error
