"""Job view: what builds, batches and evaluations share on their pages: one under way, and those before it.

Knows a job's states. Knows neither what a job does nor how its own progress looks.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import streamlit as st

from phi3kit.batch.events import RowProgress
from phi3kit.jobs.job_folder import Job
from phi3kit.jobs.job_list import JobList
from phi3kit.ui.shared import actions, elements, resources, shell, words
from phi3kit.ui.shared.literal import literal

J = TypeVar("J", bound=Job)


@st.fragment(run_every="0.5s")
def watch(jobs: JobList[J], job_id: str, draw: Callable[[J], None], on_end: Callable[[J | None], None]) -> None:
    """Draw an active job every half second. When it has ended the page runs once more, without a timer."""
    job = jobs.find(job_id, resources.actor())
    if job is not None and job.active:
        draw(job)
    else:
        on_end(job)
        resources.forget_lists()
        st.rerun()


def latest(jobs: JobList[J], key: str) -> J | None:
    """The job that a page shows: the one that `start` began here, one's own, or for an admin another's."""
    return jobs.latest(resources.actor(), st.session_state.get(key))


def show_anothers(jobs: JobList[J], word: str) -> None:
    """That another person's job is under way, and nothing else of it; redraws itself while it is."""
    if jobs.anothers(resources.actor()):
        _watch_anothers(jobs, word)


@st.fragment(run_every="2s")
def _watch_anothers(jobs: JobList[J], word: str) -> None:
    if job := jobs.anothers(resources.actor()):
        does = "is queued" if job.state == "queued" else "is running"
        st.caption(f"Another user's {word} {does} · {words.duration(job.seconds)}")
    else:
        resources.forget_lists()
        st.rerun()


def start(begin: Callable[[], J], key: str, place: str) -> None:
    """Start a job that `latest` shows from then on; an error is drawn at the place by the page's next run."""

    def keep() -> None:
        st.session_state[key] = begin().job_id

    actions.attempt(keep, place=place)


def cancel_button(jobs: JobList[J], job: J, key: str, label: str = "Cancel", help: str | None = None) -> None:
    """The button that ends a job; switched off for who may not."""
    actor = resources.actor()
    icon = ":material/close:" if label == "Cancel" else ":material/stop_circle:"
    mine = job.belongs_to(actor)
    place = f"{key}_{job.job_id}"
    end = partial(actions.attempt, partial(jobs.cancel, job, actor), place=place)
    st.button(label, icon=icon, key=key, help=help, on_click=end, disabled=not mine)
    actions.show_outcome(place, until_next=True)


def show_early_end(job: Job) -> None:
    """Why a job ended before its time: an error, or a note of who stopped it; and what is kept of it."""
    if job.error:
        shell.show_error(job.error)
    elif job.state == "cancelled":
        st.markdown(f":material/stop_circle: {literal(stopped(job), inside=True)}")


def stopped(job: Job) -> str:
    """Who stopped a job, and what is kept of it."""
    by = "You" if job.stopped_by == resources.actor().name else job.stopped_by
    return f"{f'{by} stopped it.' if by else 'It was stopped.'} {job.kept}"


def show_rows_done(at: RowProgress, active: bool = True) -> None:
    """How far a job is that answers rows, how fast, and how long still."""
    text = f"{at.done:,} of {at.total:,} rows"
    if at.failed:
        text += f" · {at.failed:,} failed"
    if active and at.rows_per_s:
        text += f" · {at.rows_per_s:,.1f} rows/s · {at.tokens_per_s:,.0f} tokens/s"
    if active and at.seconds_left is not None:
        text += f" · {words.duration(at.seconds_left)} left"
    st.progress(min(1.0, at.done / at.total) if at.total else 1.0, text=text)


def show_history(
    title: str, jobs: JobList[J], known: Sequence[J], columns: Callable[[J], dict[str, Any]], more: Callable[[J], None]
) -> None:
    """Every known job in a table; of the chosen one what it printed, a way to end it, and what `more` draws.

    columns: what the table says of a job beside when it began, how it stands and how long it took.
    """
    rows = [
        {
            "started": words.local(job.began_at),
            **columns(job),
            "state": job.state,
            "duration": words.duration(job.seconds),
        }
        for job in known
    ]
    with st.expander(f"{title} · {len(known)}"):
        by_id = {job.job_id: job for job in known}
        chosen = elements.choose_row(rows, list(by_id), title.lower(), title, {"started": elements.DATE})
        if chosen is None:
            st.caption("Select a row for details and log.")
        else:
            more(by_id[chosen])
            if by_id[chosen].active:
                cancel_button(jobs, by_id[chosen], f"cancel_in_{title.lower()}")
            elements.scrolled_code(by_id[chosen].log() or "No log output.", 300)
