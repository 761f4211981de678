"""Tour: the chapter's steps in order, each one runnable here, its code then and now."""

import streamlit as st

from phi3kit.ui.shared import shell
from phi3kit.ui.tour import steps
from phi3kit.ui.tour.chapter import STEPS

shell.begin("Tour")
st.markdown("Walk through the chapter on MLflow and Phi-3, with code that runs today, and run each step here.")
with shell.errors_shown():
    at = steps.choose_step()
    steps.show_step(STEPS[at])
    steps.show_buttons(at)
