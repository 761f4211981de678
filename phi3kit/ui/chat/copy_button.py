"""Copy button: one of Streamlit's own buttons that puts a text on the reader's clipboard.

An invisible script takes the click, so that the page does not rerun and a growing answer is not stopped. The button's
icon says that it worked. Where the browser offers no clipboard (neither this machine nor TLS), the click goes on to the
page, which shows the text to be copied by hand.
"""

from collections.abc import Mapping

import streamlit as st

_SCRIPT = """
const ends = new WeakMap(); // Streamlit calls the function again with new data, and ends only the last call

export default function ({ data, parentElement }) {
  ends.get(parentElement)?.();
  const onClick = (event) => {
    const box = event.target.closest?.("[class*='st-key-copy_']");
    const key = box && [...box.classList].find((name) => name.startsWith("st-key-copy_"))?.slice("st-key-".length);
    const text = key && data.texts[key];
    if (text === undefined || text === null || !navigator.clipboard) return;
    event.stopImmediatePropagation();
    event.preventDefault();
    const icon = event.target.closest("button")?.querySelector("[data-testid=stIconMaterial]");
    const show = (name) => {
      if (!icon) return;
      icon.dataset.before ??= icon.textContent;
      icon.textContent = name;
      setTimeout(() => { icon.textContent = icon.dataset.before; }, 1500);
    };
    navigator.clipboard.writeText(text).then(() => show("check"), () => show("error"));
  };
  document.addEventListener("click", onClick, true);
  const end = () => document.removeEventListener("click", onClick, true);
  ends.set(parentElement, end);
  return end;
}
"""
_listen = st.components.v2.component("phi3kit_copy", js=_SCRIPT)


def show_button(turn_id: str) -> bool:
    """A turn's copy button; True when the click reached the page, because the browser offers no clipboard."""
    return st.button(
        "", key=f"copy_{turn_id}", type="tertiary", icon=":material/content_copy:", help="Copy the answer's text"
    )


def listen(texts: Mapping[str, str]) -> None:
    """Make the copy buttons work. texts: what each turn's button copies, by the turn's id."""
    _listen(data={"texts": {f"copy_{turn_id}": text for turn_id, text in texts.items()}}, key="listen_copy", height=1)
