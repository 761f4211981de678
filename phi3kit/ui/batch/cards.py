"""Batching: a table before its batch, a batch under way, and what it came to.

Knows how these are drawn. What a batch does, the kit knows.
"""

from itertools import islice
from pathlib import Path

import pandas as pd
import streamlit as st

from phi3kit.batch.events import RowProgress
from phi3kit.batch.jobs import BatchJob, keep_upload
from phi3kit.batch.request import PROMPT_FORMATS, BatchRequest, map_columns
from phi3kit.batch.tables import TABLE_FORMATS, ReadOptions, Table, read_rows
from phi3kit.core.errors import Phi3KitError
from phi3kit.embedded import QUESTIONS_FILE
from phi3kit.ui.shared import resources, shell
from phi3kit.ui.shared.row_choice import DATE, choose_row

FORMAT_WORDS = {
    "message": "a user message, through the chat template",
    "prompt": "a raw prompt",
    "messages": "a list of OpenAI messages",
}
_ENCODINGS = ("utf-8", "cp1252", "cp932", "cp1253", "utf-16")
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_PREVIEW_ROWS = 5
_RESULT_ROWS = 500
_LOOK_EVERY = "0.5s"
_STATE_WORDS = {
    "queued": "Waiting for the batch before it",
    "running": "Computing",
    "done": "Done",
    "failed": "The batch ended early",
    "cancelled": "The batch was stopped",
}


def choose_file() -> Path | None:
    """An uploaded table, or the one that ships with the app. Raises StorageFailed."""
    kind = st.segmented_control("Table", ["upload", "example"], default="upload", required=True, key="batch_table")
    if kind == "example":
        return QUESTIONS_FILE
    with st.container(width=420):
        types = [suffix.removeprefix(".") for suffix in TABLE_FORMATS if suffix != ".txt"]
        given = st.file_uploader(
            "File", type=types, key="batch_file", help="CSV, JSONL or Parquet, with a column of prompts."
        )
    return keep_upload(given.name, given.getvalue(), resources.settings()) if given else None


def show_table(file: Path) -> tuple[Table, ReadOptions]:
    """The table's first rows and how many there are; how a CSV is read can be set there. Raises TableInvalid."""
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            title = st.empty()
            reading = _reading_of(file)
        title.markdown(f"**{shell.plain(file.name)}**", width="content")
        table = resources.table(file, reading)
        title.markdown(f"**{shell.plain(file.name)}** · {table.rows:,} rows", width="content")
        st.dataframe(list(islice(read_rows(table), _PREVIEW_ROWS)), hide_index=True, alt="The table's first rows")
    return table, reading


def _reading_of(file: Path) -> ReadOptions:
    """How a CSV is read, in a popover; other formats say it themselves."""
    if TABLE_FORMATS.get(file.suffix.lower()) != "csv":
        return ReadOptions()
    with st.popover("How it is read", icon=":material/tune:"):
        header = st.toggle("The first row names the columns", value=True, key="batch_header")
        encoding = st.selectbox(
            "Encoding", _ENCODINGS, index=None, placeholder="UTF-8, or as its first bytes say", accept_new_options=True,
            key="batch_encoding",
        )  # fmt: skip
        delimiter = st.selectbox(
            "Delimiter", list(_DELIMITERS), index=None, format_func=_DELIMITERS.__getitem__, placeholder="as its first line",
            key="batch_delimiter",
        )  # fmt: skip
    return ReadOptions(header, encoding, delimiter)


def map_table(table: Table) -> dict[str, str | None]:
    """Which column is what: column, format and system_column of a BatchRequest."""
    known = next((name for name in PROMPT_FORMATS if name in table.columns), None)
    with st.container(horizontal=True):
        column = st.selectbox(
            "Prompts in column",
            table.columns,
            index=table.columns.index(known) if known else 0,
            key="batch_column",
            width=220,
        )
        kind = st.selectbox(
            "as", PROMPT_FORMATS, index=PROMPT_FORMATS.index(known) if known else 0,
            format_func=FORMAT_WORDS.__getitem__, key=f"batch_format_{known}", width=330,
        )  # fmt: skip
        system = st.selectbox(
            "System message from column", [name for name in table.columns if name != column], index=None,
            placeholder="none", key="batch_system_column", width=220, disabled=kind == "prompt",
        )  # fmt: skip
    return {"column": column, "format": kind, "system_column": system}


def check(request: BatchRequest, table: Table) -> bool:
    """Whether the batch can begin; what stands against it is drawn."""
    with shell.errors_shown():
        map_columns(request, table)
        return table.rows > 0
    return False


def start(request: BatchRequest) -> None:
    """Start a batch and show it; an error is drawn by the page's next run."""
    try:
        st.session_state["batch_job"] = resources.kit().batches.start(request, resources.actor()).job_id
        st.session_state.pop("batch_error", None)
    except Phi3KitError as error:
        st.session_state["batch_error"] = error


def shown_job(jobs: list[BatchJob]) -> BatchJob | None:
    """The job that was chosen or started here, or the newest one."""
    chosen = next((job for job in jobs if job.job_id == st.session_state.get("batch_job")), None)
    return chosen or next(iter(jobs), None)


def show_job(job: BatchJob) -> None:
    """A batch; redraws itself while it runs."""
    if error := st.session_state.pop("batch_error", None):
        shell.show_error(error)
    if job.active:
        _live_job(job.job_id)
    else:
        _draw(job)


@st.fragment(run_every=_LOOK_EVERY)
def _live_job(job_id: str) -> None:
    job = resources.kit().batches.find(job_id)
    if job is not None and job.active:
        _draw(job)
    else:
        resources.forget_lists()
        st.rerun()


def _draw(job: BatchJob) -> None:
    with st.container(border=True):
        name = shell.plain(job.request.input.name)
        st.markdown(f"**{_STATE_WORDS[job.state]}** · {name} · {shell.duration(job.seconds)}")
        if job.state == "queued":
            st.caption(f"One batch takes most of the machine: {job.ahead} before this one.")
        elif job.active and job.progress is None:
            st.caption("Looking through the table")
        at = job.progress
        if at and job.state != "done":
            st.progress(min(1.0, at.done / at.total) if at.total else 1.0, text=progress_words(at, job.active))
        if job.active:
            st.button(
                "Stop", icon=":material/stop_circle:", on_click=resources.kit().batches.cancel,
                args=(job, resources.actor()), key="stop_batch", help="What is computed is kept, and the batch can go on from there.",
            )  # fmt: skip
        if job.error:
            shell.show_error(job.error)
        if job.state in ("failed", "cancelled"):
            st.button(
                "Go on",
                type="primary",
                icon=":material/resume:",
                on_click=start,
                args=(job.request,),
                key="resume_batch",
            )
        if job.summary:
            _show_result(job)


def progress_words(at: RowProgress, active: bool = True) -> str:
    """How far, how fast, how long still."""
    words = f"{at.done:,} of {at.total:,} rows"
    if at.failed:
        words += f" · {at.failed:,} failed"
    if active and at.rows_per_s:
        words += f" · {at.rows_per_s:,.1f} rows/s · {at.tokens_per_s:,.0f} tokens/s"
    return words + (f" · {shell.duration(at.seconds_left)} left" if active and at.seconds_left is not None else "")


def _show_result(job: BatchJob) -> None:
    summary = job.summary
    assert summary is not None
    with st.container(horizontal=True):
        st.metric("Rows", f"{summary.rows:,}", border=True, height="stretch")
        st.metric("Failed", f"{summary.failed:,}", border=True, height="stretch")
        st.metric("Prompt tokens", f"{summary.prompt_tokens:,}", border=True, height="stretch")
        st.metric("Completion tokens", f"{summary.completion_tokens:,}", border=True, height="stretch")
        speed = f"{summary.tokens_per_s:,.0f}" if summary.tokens_per_s is not None else "–"
        st.metric("Tokens/s", speed, border=True, height="stretch")
    if summary.kept:
        st.caption(f"{summary.kept:,} rows were computed by an earlier run of the same batch and were not asked again.")
    if not job.own_output:
        st.caption(
            f"Started in a terminal; its output is {shell.plain(job.request.output.name)}, where it was asked for."
        )
        return
    if not job.request.output.is_file():
        st.caption("Its output is no longer there.")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            f"Download {job.request.output.name}", job.request.output.read_bytes, file_name=job.request.output.name,
            icon=":material/download:", on_click="ignore", key="batch_download",
        )  # fmt: skip
        only_failed = st.toggle("Failed rows only", key="batch_failed", disabled=not summary.failed)
        st.page_link(shell.page("usage"), label="What it cost", icon=":material/monitoring:")
    table = resources.table(job.request.output, ReadOptions(header=job.request.reading.header))
    rows = read_rows(table)
    *columns, completion, prompt_tokens, completion_tokens, finish_reason, error = table.columns
    if only_failed:
        rows = (row for row in rows if row[error])
    after = [error] if summary.failed else []  # a reason is read before a count
    st.dataframe(
        list(islice(rows, _RESULT_ROWS)),
        hide_index=True,
        column_order=[*columns, completion, *after, prompt_tokens, completion_tokens, finish_reason],
        alt="The rows with their completions",
    )
    if summary.rows > _RESULT_ROWS:
        st.caption(f"The first {_RESULT_ROWS:,} rows. The download has all of them.")


def show_history(jobs: list[BatchJob]) -> None:
    """Every batch that is known; choosing one shows it."""
    rows = [
        {
            "began": pd.Timestamp(job.began_at, unit="s", tz="UTC").tz_convert(shell.timezone()),
            "table": job.request.input.name,
            "model": job.request.model_uri,
            "state": job.state,
            "rows": job.progress.done if job.progress else None,
            "failed": job.summary.failed if job.summary else None,
            "duration": shell.duration(job.seconds),
        }
        for job in jobs
    ]
    with st.expander(f"Batches · {len(jobs)}"):
        chosen = choose_row(rows, "batches", "Batches", {"began": DATE})
        if chosen is not None:
            job = jobs[chosen]
            st.button("Show this batch", on_click=st.session_state.update, args=({"batch_job": job.job_id},))
            st.code(job.log() or "It printed nothing.", language=None, height=200)
        else:
            st.caption("Choose a row to see that batch and what it printed.")
