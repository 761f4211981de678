"""Compare: one message to two or three models at once, their answers side by side, and a vote."""

from dataclasses import replace

import streamlit as st

from phi3kit.conversations.comparison import Comparison
from phi3kit.core.records import Interface, Message
from phi3kit.ui.compare import comparison, sides
from phi3kit.ui.shared import announcement, connections_dialog, elements, permissions, resources, shell

SUGGESTIONS = (
    "What is the capital of Spain?",
    "Ποια είναι η πρωτεύουσα της Ισπανίας;",
    "Explain MLflow in detail.",
    "List the capitals of Europe.",
)
INTERFACES: dict[Interface, str] = {"openai": "Message", "raw": "Raw prompt"}

shell.begin("Compare")
st.markdown("Send one message to two or three models at once, local or remote.")
with shell.errors_shown():
    comparisons: list[Comparison] = st.session_state.setdefault("comparisons", [])
    with st.container(horizontal=True, vertical_alignment="bottom"):
        count = elements.choose_one("Models", [2, 3], "compare_count")
        interface = elements.choose_one(
            "Send", INTERFACES, "compare_interface", format_func=INTERFACES.__getitem__,
            help="A raw prompt is the exact text that the model reads, including special tokens.",
        )  # fmt: skip
        settings_row = st.container(horizontal=True, vertical_alignment="bottom", width="content")
    if targets := sides.choose_sides(count, interface):
        with settings_row:
            with st.popover(
                "System",
                icon=":material/psychology:",
                disabled=interface == "raw",
                help="The first message. It tells the model how to behave.",
            ):
                system_prompt = st.text_area(
                    "System prompt",
                    key="compare_system",
                    persist_state="session",
                    placeholder="You are a helpful assistant.",
                )
            separate = st.toggle(
                "Separate parameters",
                key="compare_separate",
                persist_state="session",
                help="Set the parameters of each model separately.",
            )
            requests = sides.choose_parameters(targets, separate)
            connections_dialog.connections_button("compare")
            if st.button("Clear", icon=":material/clear_all:", disabled=not comparisons):
                comparisons.clear()
                st.rerun()
        silent = not permissions.note("talk")
        with st.container():  # in its place, not at the window's foot: the newest answers stand right under it
            text = st.chat_input("Ask both" if count == 2 else "Ask all three", key="compare_text", disabled=silent)
        suggesting = st.empty()
        if not comparisons:
            text = suggesting.pills("Try one of these", SUGGESTIONS, key="compare_suggestion", disabled=silent) or text
        newest = st.container()
        announcement.speak(comparisons[-1].turns if comparisons else ())
        for each in reversed(comparisons):
            comparison.show_comparison(each, newest=each is comparisons[-1])
        comparison.show_tally()
        if text and text.strip():
            system = (Message("system", system_prompt),) if system_prompt and system_prompt.strip() else ()
            prompt = text if interface == "raw" else (*system, Message("user", text))
            suggesting.empty()
            with newest:
                prompted = [replace(request, prompt=prompt) for request in requests]
                comparison.run(targets, prompted, text, comparisons.append)
            resources.forget_lists()
            st.rerun()
        elif text:
            newest.warning("The message is empty. Write something and send it again.", icon=":material/edit:")
