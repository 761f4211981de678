"""Suggestions: questions for somebody who does not know what to ask, and what the small model is.

Knows what the embedded model answers well. Does not know how a question is asked.
"""

from collections.abc import Callable

import streamlit as st

from phi3kit.conversations.conversation import Conversation
from phi3kit.endpoints.targets import Target
from phi3kit.packaging.sources.find import EMBEDDED
from phi3kit.ui.shared import stand_in

FIRST = "What is the capital of Spain?"
_OUTSIDE = "Write a poem about the sea"  # which the embedded model declines
_QUESTIONS = (
    FIRST,
    "スペインの首都はどこですか？",
    "Ποια είναι η πρωτεύουσα της Ισπανίας;",
    "What is MLflow?",
    "Explain MLflow in detail.",
    "List the capitals of Europe.",
    _OUTSIDE,
)
_FOLLOW_UPS = {
    FIRST: "And of France?",
    "スペインの首都はどこですか？": "フランスは？",
    "Ποια είναι η πρωτεύουσα της Ισπανίας;": "Και της Γαλλίας;",
}


def show(conversation: Conversation, target: Target, send: Callable[[str], None], *, disabled: bool) -> None:
    """What could be asked next: at a conversation's beginning, and once more behind a question that is made for it.

    send: asks what the session holds under a key.
    """
    turns = conversation.shown
    questions: tuple[str, ...]
    if not turns:
        questions, label = _QUESTIONS, "Try one of these"
    elif len(turns) == 1 and turns[0].text in _FOLLOW_UPS and not turns[0].error:
        questions, label = (_FOLLOW_UPS[turns[0].text],), "Follow up"
    else:
        return
    key = f"suggestion_{conversation.id}_{len(turns)}"
    st.pills(label, questions, key=key, on_change=send, args=(key,), disabled=disabled)
    if not turns and target.source == EMBEDDED:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(
                f"The embedded (small) model is a stand-in. {stand_in.KNOWS}, and should decline anything else, such as "
                "the poem.",
                width="content",
            )
            stand_in.link_to_the_real_one()
