"""Tour: the chapter's steps in order, each one runnable here, its code then and now."""

import streamlit as st

from phi3kit.tour import STEPS
from phi3kit.ui import shell, touring

shell.begin("Tour")
st.markdown("Walk through the chapter on MLflow and Phi-3, with code that runs today, and run each step here.")
with shell.errors_shown():
    at = touring.choose_step()
    touring.show_step(STEPS[at])
    touring.show_ways(at)
