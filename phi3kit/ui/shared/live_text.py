"""Live text: a text area whose value reaches the page while it is typed.

Streamlit's text area sends its text when it loses the focus or at Ctrl+Enter. An invisible script presses Ctrl+Enter
after a pause in typing. Without the script the text area works as Streamlit's own.
"""

import streamlit as st

_PAUSE_MS = 300

_SCRIPT = """
const ends = new WeakMap(); // Streamlit calls the function again with new data, and ends only the last call

export default function ({ data, parentElement }) {
  ends.get(parentElement)?.();
  const find = () => [...document.querySelectorAll("textarea")].find((area) => area.ariaLabel === data.label);
  let timer;
  const onInput = (event) => {
    if (!event.isTrusted || event.target !== find()) return;
    clearTimeout(timer);
    timer = setTimeout(() => {
      const key = { key: "Enter", code: "Enter", keyCode: 13, ctrlKey: true, bubbles: true, cancelable: true };
      event.target.dispatchEvent(new KeyboardEvent("keydown", key));
    }, data.pause_ms);
  };
  document.addEventListener("input", onInput);
  const end = () => {
    clearTimeout(timer);
    document.removeEventListener("input", onInput);
  };
  ends.set(parentElement, end);
  return end;
}
"""
_watch = st.components.v2.component("phi3kit_live_text", js=_SCRIPT)


def text_area(label: str, *, key: str, height: int, placeholder: str) -> str:
    """A text area; the page runs again 300 ms after the last key."""
    text = st.text_area(label, key=key, persist_state="session", height=height, placeholder=placeholder) or ""
    _watch(data={"label": label, "pause_ms": _PAUSE_MS}, key=f"{key}_live", height=1)
    return text
