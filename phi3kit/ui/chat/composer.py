"""Composer: what the browser does for Chat's text field. It keeps the draft, and gives the field the focus.

An invisible script keeps what is written in the tab's own storage, so that it stands there again after another page or a
reload, and for nobody else. The focus goes to the field when Chat opens, and whenever what had it has left the page; on a
touch screen it does not, because a keyboard would cover the answers. A message that is being edited comes before it.
"""

import streamlit as st

_SCRIPT = """
const KEY = "phi3kit draft";
const opened = new WeakSet();

export default function ({ data, parentElement }) {
  const find = () => document.querySelector(`.st-key-${data.field} textarea`);

  const keep = () => {
    const text = find()?.value;
    if (text === undefined) return;
    try {
      if (text) sessionStorage.setItem(KEY, JSON.stringify({ owner: data.owner, text }));
      else sessionStorage.removeItem(KEY);
    } catch {} // the browser stores nothing
  };

  const bringBack = (area) => {
    let draft = null;
    try {
      draft = JSON.parse(sessionStorage.getItem(KEY));
      if (draft && draft.owner !== data.owner) sessionStorage.removeItem(KEY);
    } catch {}
    if (!draft?.text || draft.owner !== data.owner || area.value) return;
    // React takes a value that is set past its own setter, at the event.
    Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(area, draft.text);
    area.dispatchEvent(new Event("input", { bubbles: true }));
  };

  const focus = (area) => {
    const held = document.activeElement;
    const nobody = !held || held === document.body;
    const fromTheMenu = !opened.has(parentElement) && held?.closest("[data-testid=stSidebarNav]");
    if ((nobody || fromTheMenu) && matchMedia("(pointer: fine)").matches) area.focus({ preventScroll: true });
  };

  const begin = () => {
    const area = find();
    const edited = data.editing && document.querySelector(`.st-key-edited_${data.editing} textarea`);
    if (!area || area.disabled || (data.editing && !edited)) return false;
    bringBack(area);
    focus(edited || area);
    opened.add(parentElement);
    return true;
  };

  const awaited = new MutationObserver(() => begin() && awaited.disconnect());
  if (!begin()) awaited.observe(document.body, { childList: true, subtree: true });

  const later = () => setTimeout(keep); // when the field has taken the key, or let its text go
  const events = ["input", "keydown", "click"];
  for (const name of events) document.addEventListener(name, later);
  return () => {
    awaited.disconnect();
    for (const name of events) document.removeEventListener(name, later);
  };
}
"""
_attend = st.components.v2.component("phi3kit_composer", js=_SCRIPT)


def attend(field: str, owner: str, last: str | None, editing: str | None) -> None:
    """Look after the text field.

    field: its key. owner: whose draft it is. last: the newest turn's id. editing: the id of the turn that is being edited.
    """
    _attend(data={"field": field, "owner": owner, "last": last, "editing": editing}, key="composer", height=1)
