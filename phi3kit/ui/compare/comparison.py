"""Comparison: the answers of all sides as they grow together, a comparison that has ended, and the votes.

Knows widgets and the order of drawing. Knows neither how sides are asked at once nor where votes are kept.
"""

import time
import uuid
from collections.abc import Callable, Sequence
from itertools import combinations

import pandas as pd
import streamlit as st

from phi3kit.conversations.comparison import LETTERS, Comparison
from phi3kit.conversations.conversation import Conversation
from phi3kit.conversations.growing_answer import turn_of
from phi3kit.endpoints.lanes import Lane, stop_all
from phi3kit.endpoints.records import Request
from phi3kit.endpoints.targets import Target
from phi3kit.formats.safe_markdown import for_pages
from phi3kit.ui.compare.sides import show_heading
from phi3kit.ui.shared import actions, answers, elements, resources, target_choice, text_diff
from phi3kit.ui.shared.literal import literal
from phi3kit.usage.votes import Votes

_DRAW_EVERY_S = 1 / 15


def run(sides: Sequence[Target], requests: Sequence[Request], text: str, on_end: Callable[[Comparison], None]) -> None:
    """Ask all sides at once and draw their answers as they grow.

    `on_end` gets the comparison however it ends: done, failed, or stopped by the reader.
    """
    comparison_id = uuid.uuid4().hex
    lanes = [answers.lane_to(side, request, comparison_id) for side, request in zip(sides, requests, strict=True)]
    with st.container(border=True):
        st.text(text)
        # A click runs the page anew; this run ends at its next use of st, and what came so far is kept.
        st.button("Stop", icon=":material/stop_circle:", key=f"stop_{comparison_id}")
        places = []
        for letter, side, column in zip(LETTERS, sides, st.columns(len(sides)), strict=False):
            with column, st.container(border=True):
                show_heading(letter, side)
                places.append(st.empty())
    try:
        for lane in lanes:
            lane.start()
        drawn = [""] * len(lanes)
        while not all(lane.done for lane in lanes):
            for index, (lane, place) in enumerate(zip(lanes, places, strict=True)):
                markdown = _markdown(lane)
                if markdown != drawn[index]:
                    place.markdown(markdown)
                    drawn[index] = markdown
            _ = "comparisons" in st.session_state  # a use of st, at which a stop takes effect when nothing is drawn
            time.sleep(_DRAW_EVERY_S)
    finally:
        # A stop raises a BaseException above, and would again at any use of st here.
        stop_all(lanes)
        turns = [turn_of(lane, text, side) for side, lane in zip(sides, lanes, strict=True)]
        on_end(Comparison(text, tuple(sides), Conversation(id=comparison_id, turns=turns)))
    for lane in lanes:
        lane.raise_bug()


def show_comparison(comparison: Comparison, *, newest: bool) -> None:
    """A comparison that has ended: message, answers, the vote, and their difference (unfolded in the newest one)."""
    answers.settle(comparison.answers)
    with st.container(border=True):
        st.text(comparison.text)
        sides = zip(LETTERS, comparison.targets, comparison.turns, st.columns(len(comparison.turns)), strict=False)
        for letter, side, turn, column in sides:
            with column, st.container(border=True, height="stretch"):
                show_heading(letter, side)
                answers.show_answer(turn, key=f"{comparison.id}_{letter}")
        if comparison.votable:
            _show_votes(comparison)
            _show_difference(comparison, newest)


def _markdown(lane: Lane) -> str:
    """What to draw of a lane: its answer, what it waits for, or that it has failed."""
    if lane.answer.text:
        return for_pages(lane.answer.text)
    if lane.error:
        return f":red[{literal(lane.error.what, inside=True)}]"
    return f":gray[:shimmer[{literal(lane.waits_for, inside=True)}]]" if lane.waits_for else ""


def _show_difference(comparison: Comparison, unfolded: bool) -> None:
    """The word diff of two answers; of three, of the pair that is chosen."""
    turns = dict(zip(LETTERS, comparison.turns, strict=False))
    pairs = {f"{a} and {b}": (a, b) for a, b in combinations(turns, 2)}
    with st.expander("Word diff", icon=":material/difference:", expanded=unfolded):
        pair = next(iter(pairs))
        if len(pairs) > 1:
            pair = elements.choose_one("Pair", pairs, f"diff_{comparison.id}")
        a, b = pairs[pair]
        text_diff.show_diff(turns[a].answer.text, turns[b].answer.text, f"{comparison.id}_{a}{b}", names=(a, b))


def _show_votes(comparison: Comparison) -> None:
    """A button for each side and one for a tie, and what was voted."""
    actions.show_outcome(comparison.id)
    letters = LETTERS[: len(comparison.turns)]
    better = "better" if len(letters) == 2 else "best"
    winners: dict[str, int | None] = {f"{letter} is {better}": index for index, letter in enumerate(letters)}
    winners["Tie"] = None
    with st.container(horizontal=True, vertical_alignment="center"):
        for label, winner in winners.items():
            st.button(label, key=f"vote_{comparison.id}_{label}", on_click=_cast_vote, args=(comparison, winner))
        if verdict := comparison.verdict(Votes(resources.settings().home).of(comparison.id)):
            st.caption(f":material/how_to_vote: You voted: {verdict}.", width="content")


def _cast_vote(comparison: Comparison, winner: int | None) -> None:
    def cast() -> None:
        Votes(resources.settings().home).cast(comparison.id, comparison.votes(winner), resources.actor().name)

    actions.attempt(cast, place=comparison.id)


def show_tally() -> None:
    """How often each model has won; nothing before the first vote."""
    tally = Votes(resources.settings().home).tally()
    if not tally:
        return
    labels = {target.model_uri: target.label for target in target_choice.available()}
    with st.container(border=True):
        st.markdown("**Votes**")
        table = pd.DataFrame(
            {
                "wrapper": each.wrapper,
                "model": labels.get(each.model_uri, each.model_uri),
                "won": each.won,
                "tied": each.tied,
                "lost": each.lost,
                "win rate": each.won / each.votes,
            }
            for each in tally
        )
        share = st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1)
        st.dataframe(table, hide_index=True, column_config={"win rate": share}, alt="Votes by model")
        st.caption("Each vote is stored as the tag phi3kit.vote on the MLflow runs of its turns.")
