"""Signatures: what each wrapper accepts and returns, side by side and beside the chapter's."""

import pandas as pd
import streamlit as st

from phi3kit.records import WRAPPERS
from phi3kit.signatures import chapter_signature, compare, describe
from phi3kit.ui import resources, shell, theme

NOTATION_HEIGHT = 230  # pixels; the longest of the four scrolls, so that all stand beside each other
MEANING = {
    "transformers": "OpenAI's chat interface: a list of messages in, choices and usage out. "
    "MLflow gives it to every model that is logged with the task llm/v1/chat.",
    "onnx": "One text in, one text out: MLflow inferred it from the example {“prompt”: …} and the answer “Run”.",
}

shell.begin("Signatures")
st.markdown("The signature is the schema of what a logged model takes and gives; here the two wrappers differ most.")
with shell.errors_shown():
    found = {wrapper: [model for model in resources.models() if model.wrapper == wrapper] for wrapper in WRAPPERS}
    missing = [wrapper for wrapper in WRAPPERS if not found[wrapper]]
    if missing:
        names = " and ".join(missing)
        shell.empty_state(
            f"Two signatures would stand here. Not built yet: {names}.",
            "build",
            "Build the missing wrapper",
            ":material/deployed_code:",
        )
    else:
        st.session_state["seen_signatures"] = True
        with st.container(horizontal=True):
            chosen = {
                wrapper: st.selectbox(
                    f"{wrapper} model", found[wrapper], format_func=shell.model_label, key=f"sig_{wrapper}", width=330
                )
                for wrapper in WRAPPERS
            }
        signature = {wrapper: resources.signature(chosen[wrapper].model_uri) for wrapper in WRAPPERS}
        for column, wrapper in zip(st.columns(2), WRAPPERS, strict=True):
            with column, st.container(border=True, height="stretch"):
                st.markdown(theme.badge(wrapper))
                st.caption(MEANING[wrapper])
                for title, each in (("Today", signature[wrapper]), ("The chapter, 2024", chapter_signature(wrapper))):
                    st.markdown(f"**{title}**")
                    st.code(describe(each).notation, language=None, wrap_lines=True, height=NOTATION_HEIGHT)

        with st.container(border=True):
            st.markdown("**Field by field**")
            view = st.segmented_control(
                "Compare",
                ["the two wrappers", *(f"{wrapper}: chapter and today" for wrapper in WRAPPERS)],
                default="the two wrappers",
                required=True,
                label_visibility="collapsed",
            )
            if view == "the two wrappers":
                left, right = WRAPPERS
                rows = compare(signature["transformers"], signature["onnx"])
            else:
                wrapper = view.split(":")[0]
                left, right = "chapter (2024)", "today"
                rows = compare(chapter_signature(wrapper), signature[wrapper])
            words = {"same": "same", "differs": "differs", "only A": f"only {left}", "only B": f"only {right}"}
            table = pd.DataFrame(
                [(row.part, row.name, row.in_a or "–", row.in_b or "–", words[row.verdict]) for row in rows],
                columns=["part", "field", left, right, "verdict"],
            )
            counts = table["verdict"].value_counts()
            st.caption(" · ".join(f"{count} {word}" for word, count in counts.items()))
            st.dataframe(table, hide_index=True, height=min(36 * (len(table) + 1), 480))
            st.caption("params: None in both, in the chapter and today.")
