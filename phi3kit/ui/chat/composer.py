"""Composer: what the browser does for Chat's text field. It keeps the draft, and gives the field the focus.

An invisible script keeps what is written in the tab's own storage, so that it stands there again after another page or a
reload, and for nobody else. The focus goes to the field when Chat opens, and whenever what had it has left the page; on a
touch screen it does not, because a keyboard would cover the answers. A message that is being edited comes before it.
"""

import streamlit as st

from phi3kit.access.actor import Actor

_SCRIPT = """
const KEY = "phi3kit draft";
const ends = new WeakMap(); // Streamlit calls the function again with new data, and ends only the last call
const filled = new WeakSet(); // text fields that have their draft back

export default function ({ data, parentElement }) {
  const opening = !ends.has(parentElement);
  ends.get(parentElement)?.();
  const find = () => document.querySelector(`.st-key-${data.field} textarea`);

  const keep = () => {
    const area = find();
    if (!data.owner || !filled.has(area)) return;
    const text = area.value;
    try {
      if (text) sessionStorage.setItem(KEY, JSON.stringify({ owner: data.owner, text }));
      else sessionStorage.removeItem(KEY);
    } catch {} // the browser stores nothing
  };

  const bringBack = (area) => {
    if (filled.has(area)) return;
    filled.add(area);
    let draft = null;
    try {
      draft = JSON.parse(sessionStorage.getItem(KEY));
      if (draft && draft.owner !== data.owner) sessionStorage.removeItem(KEY);
    } catch {}
    if (!data.owner || draft?.owner !== data.owner || typeof draft.text !== "string" || area.value) return;
    // React takes a value that is set past its own setter, at the event.
    Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(area, draft.text);
    area.dispatchEvent(new Event("input", { bubbles: true }));
  };

  // Whether it is settled who has the focus. A button keeps it, and may leave the page in a moment.
  const focus = (area) => {
    const held = document.activeElement;
    const nobody = !held || held === document.body;
    const fromTheMenu = opening && held?.closest("[data-testid=stSidebarNav]");
    const reads = !getSelection().isCollapsed || document.querySelector("[data-testid=stPopoverBody], [data-testid=stDialog]");
    if (reads || settled || !matchMedia("(pointer: fine)").matches) return true;
    if (!nobody && !fromTheMenu) return !held.matches("button");
    area.focus({ preventScroll: true });
    return true;
  };

  const begin = () => {
    const area = find();
    if (!area || area.disabled) return false;
    bringBack(area);
    const edited = data.editing && document.querySelector(`.st-key-edited_${data.editing} textarea`);
    return data.editing && !edited ? settled : focus(edited || area);
  };

  let settled = false; // by a person, who decides where the focus is
  const settle = () => { settled = true; };
  const awaited = new MutationObserver(() => begin() && awaited.disconnect());
  if (!begin()) awaited.observe(document.body, { childList: true, subtree: true });

  const later = () => setTimeout(keep); // when the field has taken the key, or let its text go
  const listeners = [
    ["input", later], ["keydown", later], ["click", later],
    ["keydown", settle], ["pointerdown", settle],
  ];
  for (const listener of listeners) document.addEventListener(...listener);
  const end = () => {
    awaited.disconnect();
    for (const listener of listeners) document.removeEventListener(...listener);
  };
  ends.set(parentElement, end);
  return end;
}
"""
_attend = st.components.v2.component("phi3kit_composer", js=_SCRIPT)


def attend(field: str, actor: Actor, last: str | None, editing: str | None) -> None:
    """Look after the text field.

    field: its key. actor: whose draft it is. last: the newest turn's id. editing: the id of the turn that is being edited.
    """
    # A visitor is another one in each tab and after a reload: no draft is kept, which the next one would find.
    owner = "" if actor.role == "visitor" else actor.name
    _attend(data={"field": field, "owner": owner, "last": last, "editing": editing}, key="composer", height=1)
