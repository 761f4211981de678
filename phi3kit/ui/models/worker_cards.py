"""Worker cards: each loaded model's process: state, memory, uptime, turns, the end of its log.

Knows how they are drawn. Does not know how a worker is asked.
"""

import time
from functools import partial

import streamlit as st

from phi3kit.core.processes import log_tail
from phi3kit.endpoints.worker_process import WorkerStatus
from phi3kit.ui.shared import actions, elements, permissions, resources, theme, words

_LOG_LINES = 40
_PLACE = "workers"  # of what a click here came to


@st.fragment(run_every="2s")
def show_workers() -> None:
    """All workers, redrawn every two seconds."""
    actions.show_outcome(_PLACE, until_next=True)
    workers = resources.kit().pool.statuses()
    if not workers:
        st.markdown("No model is loaded. A model loads when you talk to it, or when you press Load on its card.")
    for worker in workers:
        _show(worker)


def _show(worker: WorkerStatus) -> None:
    pool = resources.kit().pool
    activity = pool.activity(worker.model_uri)
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.markdown(
                f"{theme.badge(worker.wrapper)} {words.state(worker.state)} · process {worker.pid}", width="content"
            )
            permissions.button(
                "Unload" if worker.state != "stopped" else "Dismiss",
                "serve",
                icon=":material/eject:",
                key=f"stop_{worker.model_uri}",
                on_click=partial(actions.attempt, place=_PLACE),
                args=(partial(pool.unload, worker.model_uri, resources.actor()),),
            )
        st.code("\n".join([worker.model_uri, *worker.given_uris]), language=None, wrap_lines=True)
        if worker.state != "stopped":
            figures = {
                "Memory": words.size(worker.memory_bytes or 0),
                "Uptime": words.duration(time.time() - worker.started_at),
            }
            if activity:
                figures["Turns"] = f"{activity.turns:,}"
                figures["Tokens"] = f"{activity.prompt_tokens + activity.completion_tokens:,}"
                figures["Active answers"] = f"{activity.active}"
                figures["Waiting"] = f"{activity.waiting}"
            elements.show_metrics(figures)
        if activity:
            st.caption(
                f"{words.counted(activity.threads, 'thread')} · conversation memory: {words.size(activity.kv_reserved_bytes)} "
                f"of {words.size(activity.kv_budget_bytes)}"
            )
        if permissions.may("administer"):  # what others sent may stand in the log
            with st.expander("Log"):
                lines = log_tail(worker.log_file, _LOG_LINES)
                elements.scrolled_code("\n".join(lines) or "No log output.", 200)
