"""Keys: API keys for programs: create one, list them, revoke one.

Knows how they are drawn. Does not know how a key is made or checked.
"""

import time

import streamlit as st

from phi3kit.access.actor import Actor
from phi3kit.access.keys import MOST_DAYS, USUAL_DAYS, ApiKey, KeyStore
from phi3kit.core.settings import Settings
from phi3kit.ui.shared import actions, elements, pages, permissions, shell, theme, words
from phi3kit.ui.shared.literal import literal

_DAYS = (7, 30, USUAL_DAYS, MOST_DAYS)
_BODY = '{"model": "phi3", "messages": [{"role": "user", "content": "What is the capital of Spain?"}]}'


def show_keys(actor: Actor, settings: Settings) -> None:
    """The card of API keys."""
    with st.container(border=True), shell.errors_shown():
        st.markdown("**API keys**")
        if not permissions.note("keys"):
            return
        store = KeyStore(settings.home)
        st.caption("For your own programs, with a server started here by phi3kit serve. Their turns count as yours.")
        _show_form(store, actor)
        of_all = actor.may("administer") and st.toggle("Keys of all users", key="access_all_keys")
        _show_list(store, store.list(actor, everybody=of_all), actor)


def _show_form(store: KeyStore, actor: Actor) -> None:
    form = st.form("access_new_key", clear_on_submit=True, border=False)
    with form, st.container(horizontal=True, vertical_alignment="bottom"):
        user = actor.name
        if actor.may("administer"):
            user = st.text_input("User", actor.name, max_chars=200, width=260, help="The user this key acts as.")
        note = st.text_input("Note", max_chars=200, width=260, placeholder="What it is for")
        days = st.selectbox("Days", _DAYS, _DAYS.index(USUAL_DAYS), width=90, help="How many days the key is valid.")
        create = st.form_submit_button(theme.on_primary("Create a key"), type="primary", icon=":material/key:")
    if create:
        key, token = store.create(user, note, actor, days)
        _show_new(key, token)


@st.dialog("Your new key", icon=":material/key:", width="medium")
def _show_new(key: ApiKey, token: str) -> None:
    """The only moment at which a key is seen. It is in no session's state: when the dialog closes, it is gone."""
    st.markdown(
        f"Copy the key now. It is not shown again. Its turns count as those of {literal(key.user, inside=True)}."
    )
    st.code(token, language=None, wrap_lines=True)
    st.markdown("Example request to a server on port 8000 of this machine:")
    st.code(
        f"curl http://127.0.0.1:8000/v1/chat/completions \\\n  -H 'Authorization: Bearer {token}' \\\n"
        f"  -H 'Content-Type: application/json' \\\n  -d '{_BODY}'",
        language=None,
        wrap_lines=True,
    )
    pages.link("deploy", "Start a server on Deploy")


def _show_list(store: KeyStore, keys: list[ApiKey], actor: Actor) -> None:
    if not keys:
        st.markdown("No API keys yet.")
        return
    now = time.time()
    rows = [
        {
            "Key": f"phi3kit_{key.id}_…",
            "User": key.user,
            "Note": key.note,
            "State": key.state(now),
            "Created": words.local(key.created_at),
            "Expires": words.local(key.expires_at),
            "Last used": words.local(key.last_used_at) if key.last_used_at else None,
        }
        for key in keys
    ]
    dates = dict.fromkeys(("Created", "Expires", "Last used"), elements.DATE)
    by_id = {key.id: key for key in keys}
    chosen = by_id.get(elements.choose_row(rows, list(by_id), "access_keys", "API keys", dates) or "")
    live = chosen if chosen and chosen.state(now) == "live" else None
    st.button(
        f"Revoke {live.id}" if live else "Revoke",
        icon=":material/block:",
        key="access_revoke",
        disabled=live is None,
        help="Select a live key in the table. It stops working immediately and permanently.",
        on_click=actions.attempt,
        args=(lambda: store.revoke(live.id if live else "", actor), "The key is revoked."),
    )
