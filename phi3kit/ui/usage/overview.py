"""Overview: what was read, what waits to be written, today's budgets, and the sums of the chosen turns.

Knows how they are drawn. Does not know how turns are written, read or counted.
"""

import time

import streamlit as st

from phi3kit.ui.shared import resources, shell, words
from phi3kit.ui.shared.literal import literal
from phi3kit.ui.usage.filters import Chosen
from phi3kit.usage import budgets, prices, summary
from phi3kit.usage.reader import TurnsReading


def show_status(reading: TurnsReading) -> None:
    """What waits to be written, and what is being read."""
    writer = resources.kit().writer.state()
    if writer.waiting:
        waiting = f"{words.counted(writer.waiting, 'turn')} {'is' if writer.waiting == 1 else 'are'} waiting"
        if writer.problem:
            left_s = max((writer.next_try_at or 0) - time.time(), 0)
            again = f" Next retry in {left_s:,.0f} s." if writer.next_try_at else ""
            st.warning(
                f"{literal(writer.problem, inside=True)}{again}",
                title=f"{waiting} to be written to MLflow.",
                icon=":material/hourglass_top:",
            )
        else:
            st.caption(f"{waiting} to be written to MLflow.")
    if reading.error:
        shell.show_error(reading.error, "MLflow could not be read. The turns read before are shown.")
    if reading.progress:
        _watch_reading()


@st.fragment(run_every=1.0)
def _watch_reading() -> None:
    """Runs only while turns are being read; when they are there the page runs once more."""
    reading = resources.kit().reader.current(max_age_s=1e9, wait_s=0)
    if reading.progress is None:
        st.rerun()
    count = f": {reading.progress.runs:,} runs" if reading.progress.runs else ""
    st.caption(f":material/sync: Comparing with MLflow{count}")


def show_source(reading: TurnsReading) -> None:
    """When MLflow was read, and what in the experiment is no turn."""
    snapshot = reading.snapshot
    if snapshot is None:
        return
    line = f"Read from MLflow at {words.local(snapshot.read_at):%H:%M:%S}. Times are {words.timezone()}."
    if snapshot.odd:
        kinds = ", ".join(f"{count:,} {reason}" for reason, count in snapshot.odd.items())
        line += f" Not counted: runs from other programs in this experiment ({kinds})."
    st.caption(literal(line))


def show_budgets() -> None:
    """How much of today's budgets is spent; nothing without budgets."""
    outbox, settings, actor = resources.kit().outbox, resources.settings(), resources.actor()
    others = outbox.spenders(budgets.today()) if actor.may("administer") else ()
    users = list(dict.fromkeys([actor.name, *others]))[:10]
    found = budgets.meters(settings.limits, outbox, users)
    if not found:
        return
    with st.container(border=True):
        st.markdown("**Today's token budgets**")
        for meter in found:
            whose = "All users" if meter.user is None else literal(meter.user)
            left = meter.budget_tokens - meter.spent_tokens
            rest = f"{left:,} left" if left > 0 else ":red[spent: new turns are refused]"
            st.progress(meter.share, f"{whose}: {meter.spent_tokens:,} of {meter.budget_tokens:,} tokens · {rest}")
        renews = words.local(found[0].renews_at)
        st.caption(f"They reset at {renews:%H:%M}. Turns sent from this machine count.")


def show_totals(chosen: Chosen) -> None:
    """Turns, tokens, speed and cost, each with its change."""
    sums = summary.totals(chosen.turns)
    was = None if chosen.before is None else summary.totals(chosen.before)
    earlier = was or summary.NOTHING
    own = prices.load(resources.settings().home)

    def metric(label: str, text: str, now: float | None, before: float | None, colour: str = "off") -> None:
        changed = summary.change(now, before)
        delta = None if changed is None else 0 if abs(changed) < 0.005 else f"{changed:+,.0%}"
        st.metric(label, text, delta, delta_color=colour, border=True, height="stretch")  # type: ignore[arg-type]

    with st.container(horizontal=True):
        metric("Turns", f"{sums.turns:,}", sums.turns, earlier.turns)
        metric("Prompt tokens", f"{sums.prompt_tokens:,}", sums.prompt_tokens, earlier.prompt_tokens)
        metric("Completion tokens", f"{sums.completion_tokens:,}", sums.completion_tokens, earlier.completion_tokens)
        metric("Total tokens", f"{sums.total_tokens:,}", sums.total_tokens, earlier.total_tokens)
        first, speed = sums.time_to_first_token_p95_s, sums.tokens_per_second_median
        was_first, was_speed = earlier.time_to_first_token_p95_s, earlier.tokens_per_second_median
        metric("Time to first token, p95", words.seconds(first), first, was_first, "inverse")
        metric("Tokens/s, median", f"{speed:,.0f}" if speed is not None else "–", speed, was_speed, "normal")
        if own:
            spent = prices.cost(chosen.turns, own)
            was_spent = None if chosen.before is None else prices.cost(chosen.before, own)
            metric("Cost", f"${spent:,.2f}" if spent >= 1 or spent == 0 else f"${spent:.4f}", spent, was_spent)
    notes = [f"Change vs. the previous {chosen.period}."] if was and was.turns else []
    if sums.cached_prompt_tokens:
        notes.append(f"{sums.cached_prompt_tokens:,} prompt tokens were cached.")
    if (count := sums.uncounted_turns) == 1:
        notes.append("1 turn of a remote endpoint has no token counts and is not included in totals.")
    elif count:
        notes.append(f"{count:,} turns of remote endpoints have no token counts and are not included in totals.")
    if notes:
        st.caption(" ".join(notes))
