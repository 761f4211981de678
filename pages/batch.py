"""Batch: answer every row of a table, and take the table with its completions away."""

from pathlib import Path

import streamlit as st

from phi3kit.batch.request import BatchRequest, sampling_params_of
from phi3kit.endpoints import targets
from phi3kit.ui.batch import job, table
from phi3kit.ui.shared import elements, parameters, permissions, resources, shell, target_choice, words

OUTPUTS = (".csv", ".jsonl", ".parquet")

shell.begin("Batch")
st.markdown("Answer every row of a table. You get the same table back with completions, tokens and errors in each row.")
with shell.errors_shown():
    if not permissions.note("batch"):
        st.stop()
    with st.container(horizontal=True, vertical_alignment="top"):
        choice = target_choice.choose_model("batch_model")
        file = table.choose_file() if choice else None
    if choice and file:
        given, reading = table.show_table(file)
        columns = table.choose_columns(given)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            sampling = parameters.parameters_popover("batch", targets.of_model(choice.model, choice.label), "")
            suffix = elements.choose_one("Output", OUTPUTS, "batch_output")
            with st.popover("More", icon=":material/settings:"):
                system = st.text_area(
                    "System message for every row", key="batch_system", persist_state="session", height=80
                )
                fresh = st.toggle("Recompute all rows", key="batch_fresh", persist_state="session")
        request = BatchRequest(
            model_uri=choice.model_uri,
            input=given.path,
            output=Path(f"{given.path.stem}-completions{suffix}"),
            **columns,
            system=system.strip() or None,
            sampling=sampling_params_of(sampling),
            reading=reading,
            fresh=fresh,
        )
        ready = table.can_begin(request, given)
        if ready:
            table.show_first_prompt(request, given)
        if permissions.button(
            f"Answer {words.counted(given.rows, 'row')}",
            "batch",
            type="primary",
            icon=":material/play_arrow:",
            disabled=not ready,
            key="batch_start",
        ):
            job.start(request)
with shell.errors_shown():
    jobs = resources.kit().batches.seen_by(resources.actor())
    job.show_job(job.chosen(jobs))
    if jobs:
        job.show_history(jobs)
