"""Signatures: what two models accept and return: fields, payloads, one question in every form, and the chapter's version."""

import streamlit as st

from phi3kit.ui.shared import elements, shell, steps_taken
from phi3kit.ui.signatures import fields, payload
from phi3kit.ui.signatures.sides import choose_sides

VIEWS = {
    "Fields": fields.show_fields,
    "Payload": payload.show_payload,
    "One question, every form": payload.show_forms,
    "Since the chapter": fields.show_since_chapter,
}

shell.begin("Signatures")
st.markdown(
    "A signature is the schema of a logged model's inputs and outputs. It is where the two wrappers differ most."
)
with shell.errors_shown():
    if sides := choose_sides():
        steps_taken.see("signatures")
        VIEWS[elements.choose_view(VIEWS, "sig_view")](*sides)
