"""Evaluate: a model's answers against the expected ones; two versions compared question by question."""

import streamlit as st

from phi3kit.evaluation.request import EvaluationRequest
from phi3kit.ui.evaluate import evaluations, job
from phi3kit.ui.shared import elements, permissions, resources, shell, target_choice, theme

COUNTS = {"60": 60, "300": 300, "all": None}

shell.begin("Evaluate")
st.markdown(
    "Ask questions with known answers, score the answers without a judge model, and see which version is better."
)
with shell.errors_shown():
    may = permissions.note("evaluate")
    with st.container(horizontal=True, vertical_alignment="top"):
        choice = target_choice.choose_model("evaluate_model") if may else None
        data = job.choose_questions() if choice else None
        if data:
            count = elements.choose_one("Number of questions", COUNTS, "evaluate_count")
    if choice and data:
        request = EvaluationRequest(choice.model_uri, data, limit=COUNTS[count])
        if st.button(theme.on_primary("Evaluate"), type="primary", icon=":material/fact_check:"):
            job.start(request)
with shell.errors_shown():
    job.show_job(job.latest())
    if found := resources.evaluations():
        evaluations.show_list(found)
        evaluations.show_comparison(found)
    elif choice:
        st.caption("No evaluations yet. Scores and answers will appear here and in MLflow.")
