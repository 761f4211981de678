"""Build: package a Phi-3 as an MLflow model with either wrapper, and watch each step."""

import streamlit as st

from phi3kit.packaging.sources.find import EMBEDDED
from phi3kit.ui.build import job, result
from phi3kit.ui.build.request import choose_request, show_plan
from phi3kit.ui.shared import pages, permissions, resources, shell

shell.begin("Build")
st.markdown("Turn Phi-3 weights into an MLflow model: weights in, logged model with signature and requirements out.")
with shell.errors_shown():
    if may_build := permissions.note("build"):
        permissions.note("build_any")
    request = choose_request()
    verdict = None  # until the source was found and its needs were estimated
    if may_build and request.source:
        with shell.errors_shown():
            source, needs = resources.plan(request)
            show_plan(source, needs)
            verdict = needs.verdict
        if verdict is None:
            st.button("Check again", icon=":material/refresh:", on_click=resources.forget_plans)
    anyway = verdict == "tight" and st.checkbox(
        "Build anyway. It is a tight fit: this machine may become slow or stop the build."
    )
    wrappers, same = request.wrappers, job.same_under_way(request)
    if permissions.button(
        "Build both wrappers" if len(wrappers) == 2 else f"Build the {wrappers[0]} wrapper",
        "build",
        type="primary",
        icon=":material/deployed_code:",
        disabled=bool(same) or not (verdict == "fits" or anyway),
        key="build_start",
    ):
        job.start(request, anyway)
        st.rerun()  # the button was drawn as one that can be pressed
    if same:
        st.caption("This build waits for its turn." if same.state == "queued" else "This build is under way.")
with shell.errors_shown():
    builds, models = resources.kit().builds, resources.models()
    latest = job.latest()
    job.show_job(latest)
    if latest and not latest.active:
        for built in latest.built:
            result.show_built(built)
        if latest.built and not latest.error:
            with st.container(horizontal=True):
                pages.link("chat", "Talk to it")
                pages.link("signatures", "Compare the signatures")
    elif latest is None and request.source == EMBEDDED and not models:
        st.caption(
            "Nothing is built yet. The button above builds both wrappers from the embedded (small) model in seconds."
        )
    if models:
        result.show_models(models)
    if jobs := builds.seen_by(resources.actor()):
        job.show_history(jobs)
