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
  const opening = !opened.has(parentElement);
  opened.add(parentElement);
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

  // Whether it is settled who has the focus. A button keeps it, and may leave the page in a moment.
  const focus = (area) => {
    const held = document.activeElement;
    const nobody = !held || held === document.body;
    const fromTheMenu = opening && held?.closest("[data-testid=stSidebarNav]");
    if (!matchMedia("(pointer: fine)").matches) return true;
    if (!nobody && !fromTheMenu) return !held.matches("button");
    area.focus({ preventScroll: true });
    return true;
  };

  const begin = () => {
    const area = find();
    const edited = data.editing && document.querySelector(`.st-key-edited_${data.editing} textarea`);
    if (!area || area.disabled || (data.editing && !edited)) return false;
    bringBack(area);
    return focus(edited || area);
  };

  const awaited = new MutationObserver(() => begin() && settle());
  const settle = () => awaited.disconnect();
  if (!begin()) awaited.observe(document.body, { childList: true, subtree: true });

  const later = () => setTimeout(keep); // when the field has taken the key, or let its text go
  const listeners = [
    ["input", later], ["keydown", later], ["click", later],
    ["keydown", settle], ["pointerdown", settle], // a person decides where the focus is
  ];
  for (const listener of listeners) document.addEventListener(...listener);
  return () => {
    settle();
    for (const listener of listeners) document.removeEventListener(...listener);
  };
}
"""
_attend = st.components.v2.component("phi3kit_composer", js=_SCRIPT)


def attend(field: str, owner: str, last: str | None, editing: str | None) -> None:
    """Look after the text field.

    field: its key. owner: whose draft it is. last: the newest turn's id. editing: the id of the turn that is being edited.
    """
    _attend(data={"field": field, "owner": owner, "last": last, "editing": editing}, key="composer", height=1)
