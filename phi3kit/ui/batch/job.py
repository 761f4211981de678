"""Job: a batch under way, what it came to, and the batches before it.

Knows how they are drawn. Does not know how a batch runs.
"""

from functools import partial
from typing import Any

import streamlit as st

from phi3kit.batch.jobs import BatchJob
from phi3kit.batch.output import for_spreadsheets
from phi3kit.batch.preview import preview
from phi3kit.batch.request import BatchRequest
from phi3kit.batch.tables import ReadOptions, Table, read_rows
from phi3kit.ui.shared import actions, elements, job_view, pages, resources, theme, words
from phi3kit.ui.shared.literal import literal

_RESULT_ROWS = 500
_DOWNLOAD_BYTES = 100_000_000
_APOSTROPHES = "Cells that look like formulas start with an apostrophe. JSONL, Parquet and files from the command line are unchanged."
_STATES = {
    "queued": "Queued",
    "running": "Running",
    "done": "Done",
    "failed": "Failed",
    "cancelled": "Stopped",
}


def start(request: BatchRequest) -> None:
    """Start a batch and show it; an error is drawn where the page shows the job."""
    job_view.start(partial(resources.kit().batches.start, request, resources.actor()), "batch_job", "batch")


def chosen(jobs: list[BatchJob]) -> BatchJob | None:
    """The job that was chosen or started here, or the newest one."""
    job_id = st.session_state.get("batch_job")
    return next((job for job in jobs if job.job_id == job_id), next(iter(jobs), None))


def show_job(job: BatchJob | None) -> None:
    """A batch, or why none began; redraws itself while it runs."""
    actions.show_outcome("batch")
    if job is None:
        return
    if job.active:
        job_view.watch(resources.kit().batches, job.job_id, _draw, lambda ended: None)
    else:
        _draw(job)


def _draw(job: BatchJob) -> None:
    with st.container(border=True):
        st.markdown(
            f"**{_STATES[job.state]}** · {literal(job.request.input.name, inside=True)} · {words.duration(job.seconds)}"
        )
        if job.state == "queued":
            st.caption(f"{job.ahead} ahead in the queue.")
        elif job.active and job.progress is None:
            st.caption("Reading the table")
        if job.progress and job.state != "done":
            job_view.show_rows_done(job.progress, job.active)
        if job.active:
            why = "Finished rows are kept, and you can resume the batch."
            job_view.cancel_button(resources.kit().batches, job, "stop_batch", "Stop", why)
        job_view.show_early_end(job)
        if job.state in ("failed", "cancelled"):
            st.button(
                theme.on_primary("Resume"),
                type="primary",
                icon=":material/resume:",
                on_click=start,
                args=(job.request,),
                key="resume_batch",
            )
        if job.summary:
            _show_result(job)


def _show_result(job: BatchJob) -> None:
    summary, output = job.summary, job.request.output
    assert summary is not None
    elements.show_metrics(
        {
            "Rows": f"{summary.rows:,}",
            "Failed": f"{summary.failed:,}",
            "Prompt tokens": f"{summary.prompt_tokens:,}",
            "Completion tokens": f"{summary.completion_tokens:,}",
            "Tokens/s": f"{summary.tokens_per_s:,.0f}" if summary.tokens_per_s is not None else "–",
        }
    )
    if summary.kept:
        st.caption(f"{summary.kept:,} rows reused from an earlier run of the same batch.")
    if not job.own_output:
        st.caption(
            f"Started from a terminal. The output is {literal(output.name, inside=True)}, at the path given there."
        )
        return
    if not output.is_file():
        st.caption("The output file no longer exists.")
        return
    table = resources.table(output, ReadOptions(header=job.request.reading.header))
    with st.container(horizontal=True, vertical_alignment="center"):
        _offer_download(table, job.job_id)
        only_failed = st.toggle("Failed rows only", key="batch_failed", disabled=not summary.failed)
        pages.link("usage", "See its usage")
    rows = read_rows(table)
    *columns, completion, prompt_tokens, completion_tokens, finish_reason, error = table.columns
    if only_failed:
        rows = (row for row in rows if row[error])
    reason = [error] if summary.failed else []  # a reason is read before a count
    drawn = preview(rows, _RESULT_ROWS)
    st.dataframe(
        drawn.rows,
        hide_index=True,
        column_order=[*columns, completion, *reason, prompt_tokens, completion_tokens, finish_reason],
        alt="The rows with their completions",
    )
    if left_out := drawn.said(None if only_failed else summary.rows):
        st.caption(f"{left_out} The file is complete.")


def _offer_download(table: Table, job_id: str) -> None:
    """A download, which the app holds in memory as a whole while it is fetched; or where the file lies, if it is too big."""
    file, is_csv = table.path, table.format == "csv"
    size_bytes = file.stat().st_size
    if size_bytes > _DOWNLOAD_BYTES:
        st.caption(
            f"The file has {size_bytes / 1e6:,.0f} MB; the download limit is {_DOWNLOAD_BYTES / 1e6:,.0f} MB. "
            f"Saved in the data folder: {literal(f'batches/{job_id}/{file.name}', inside=True)}"
        )
        return
    st.download_button(
        f"Download {literal(file.name, inside=True)}", partial(for_spreadsheets, table) if is_csv else file.read_bytes,
        file_name=file.name, icon=":material/download:", on_click="ignore", key="batch_download",
        help=_APOSTROPHES if is_csv else None,
    )  # fmt: skip


def show_history(jobs: list[BatchJob]) -> None:
    """Every known batch; choosing one offers to show it."""

    def columns(job: BatchJob) -> dict[str, Any]:
        return {
            "table": job.request.input.name,
            "model": job.request.model_uri,
            "rows": job.progress.done if job.progress else None,
            "failed": job.summary.failed if job.summary else None,
        }

    def more(job: BatchJob) -> None:
        st.button("Show this batch", on_click=st.session_state.update, args=({"batch_job": job.job_id},))

    job_view.show_history("Batches", resources.kit().batches, jobs, columns, more)
