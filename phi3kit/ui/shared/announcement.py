"""Announcement: tells a screen reader that an answer has ended, once and as a whole.

An invisible region of the page speaks when a new answer takes the place of the one before. Nothing is said of the answer
that stood there when the page was opened, nor of one that grows.
"""

import time
from collections.abc import Sequence

import streamlit as st

from phi3kit.conversations.conversation import ChatTurn
from phi3kit.ui.shared import words

_NEW_S = 30.0
_CHARACTERS = 2_000  # of an answer that are read out

_REGION = '<div role="status"></div>'
_UNSEEN = "div { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }"
_SCRIPT = """
export default function ({ data, parentElement }) {
  const region = parentElement.querySelector("[role=status]");
  if (region.dataset.id !== undefined && region.dataset.id !== data.id) region.textContent = data.text;
  region.dataset.id = data.id;
}
"""
_speak = st.components.v2.component("phi3kit_announcement", html=_REGION, css=_UNSEEN, js=_SCRIPT)


def speak(newest: Sequence[ChatTurn]) -> None:
    """Announce the newest answers (in Compare several; none at the beginning) when others stood here before.

    Not an old one, which a reader has turned to.
    """
    just_ended = [turn for turn in newest if time.time() - turn.at < _NEW_S]
    spoken = [turn.answer_text or (turn.error.what if turn.error else "") for turn in just_ended]
    text = "\n".join(words.shortened(each, _CHARACTERS // len(spoken)) for each in spoken)
    _speak(data={"id": " ".join(turn.turn_id for turn in newest), "text": text}, key="announcement", height=1)
