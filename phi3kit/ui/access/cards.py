"""Access cards: the parts of the Access page: rights, limits, API keys, everybody's use, the data folder.

Knows how they are drawn. What is allowed and counted, the kit knows.
"""

from datetime import datetime
from zoneinfo import ZoneInfo

import streamlit as st

from phi3kit.access.actor import Actor
from phi3kit.access.keys import ApiKey, KeyStore
from phi3kit.access.roles import rights
from phi3kit.core.data_folder import disk_bytes
from phi3kit.core.settings import Settings
from phi3kit.tracking.upkeep import clean_up
from phi3kit.ui.shared import actions as clicks
from phi3kit.ui.shared import permissions, resources, shell
from phi3kit.ui.shared.row_choice import DATE, choose_row
from phi3kit.usage.allowances import allowances, everybody, sizes

_FOR_WHOM = {
    "local": "This is your own machine (profile local), and everything is on.",
    "team": "This app is open to people who sign in (profile team).",
    "public": "This is a public demo (profile public): you have no name here, and what you say is not kept.",
}
_DAY_S = 86_400.0
_AGES = {"a day": _DAY_S, "a week": 7 * _DAY_S, "a month": 30 * _DAY_S}
_BODY = '{"model": "phi3", "messages": [{"role": "user", "content": "What is the capital of Spain?"}]}'


def who(actor: Actor, settings: Settings) -> None:
    """Who is at this tab, in a sentence."""
    st.markdown(f"You are **{shell.plain(actor.name)}**, role **{actor.role}**. {_FOR_WHOM[settings.profile]}")


def show_rights(actor: Actor, settings: Settings) -> None:
    """What this person may do, and what not."""
    may, may_not = rights(actor.role)
    with st.container(border=True, height="stretch"):
        st.markdown("**What you may do**")
        if may:
            st.markdown(f":material/check: {shell.plain(' · '.join(may))}")
        if may_not:
            st.markdown(f":material/lock: Not: {shell.plain(' · '.join(may_not))}")


def show_limits(actor: Actor, settings: Settings) -> None:
    """How much of each limit is used."""
    with st.container(border=True, height="stretch"), shell.errors_shown():
        st.markdown("**Your limits**")
        shared = resources.kit()
        found = allowances(settings.limits, shared.outbox, actor.name)
        for each in found:
            st.progress(each.share, f"{each.used:,} of {each.most:,} {each.what}")
        if bounds := sizes(settings.limits):
            st.caption(f"At most: {'; '.join(bounds)}.")
        elif not found:
            st.markdown("None are set: nothing is counted against you.")


def show_keys(actor: Actor, settings: Settings) -> None:
    """API keys: make one, see them, revoke one."""
    with st.container(border=True), shell.errors_shown():
        st.markdown("**API keys**")
        if not permissions.note("keys"):
            return
        store = KeyStore(settings.home)
        st.caption("For your own programs, at a server that phi3kit serve started here. Their turns count as yours.")
        _create(store, actor)
        of_all = actor.may("administer") and st.toggle("Everybody's keys", key="access_all_keys")
        _list(store, store.list(actor, everybody=of_all), actor)


def show_everybody(actor: Actor, settings: Settings) -> None:
    """What each user did lately; nothing for who may not administer."""
    if not actor.may("administer"):
        return
    with st.container(border=True), shell.errors_shown():
        st.markdown("**Everybody's use**")
        found = everybody(actor, settings.limits, resources.kit().outbox)
        if not found:
            st.markdown("Nobody has asked anything today.")
            return
        rows = [
            {
                "User": each.counts.user,
                "Tokens today": each.tokens_today,
                "Turns, 24 hours": each.counts.daily_turns,
                "Turns, last minute": each.counts.minute_turns,
                "Tokens, last minute": each.counts.minute_tokens,
                "Being written": each.counts.at_once,
            }
            for each in found
        ]
        st.dataframe(rows, hide_index=True, key="access_uses", alt="What each user asked lately")
        if not settings.limits.paces_users:
            st.caption("Turns are counted by user where a limit of turns is set.")


def show_data_folder(actor: Actor, settings: Settings) -> None:
    """What the data folder takes, and a clean-up; nothing for who may not administer."""
    if not actor.may("administer"):
        return
    with st.container(border=True), shell.errors_shown():
        st.markdown("**Data folder**")
        held, most = disk_bytes(settings.home), settings.limits.disk_mb
        if most is None:
            st.markdown(f"It takes {held / 1e6:,.0f} MB.")
        else:
            share = min(1.0, held / (most * 1e6))
            st.progress(share, f"{held / 1e6:,.0f} of {most:,} MB (PHI3KIT_DISK_MB)")
        if hours := settings.limits.keep_hours:
            st.caption(f"What is older than {hours} h goes by itself.")
        with st.container(horizontal=True, vertical_alignment="bottom"):
            age = st.selectbox("Older than", list(_AGES), key="access_age", width=160)
            if st.button("Clean up", icon=":material/cleaning_services:", key="access_clean_up"):
                _ask_to_clean_up(age, actor, settings)


@st.dialog("Clean up?", icon=":material/cleaning_services:")
def _ask_to_clean_up(age: str, actor: Actor, settings: Settings) -> None:
    st.markdown(
        f"Deleted is what is older than {age}: ended builds, batches **with their results**, evaluations' progress, "
        "uploads, bundles, logs, and copies of remote models."
    )
    st.markdown("Models, turns, conversations, connections and keys stay.")
    clicks.confirm(
        lambda: clean_up(actor, settings, _AGES[age]),
        lambda cleaned: f"Cleaned up: {cleaned.files_bytes / 1e6:,.1f} MB less.",
    )


def _create(store: KeyStore, actor: Actor) -> None:
    form = st.form("access_new_key", clear_on_submit=True, border=False)
    with form, st.container(horizontal=True, vertical_alignment="bottom"):
        user = actor.name
        if actor.may("administer"):
            user = st.text_input("For", actor.name, max_chars=200, width=260, help="Whose turns the key makes.")
        note = st.text_input("Note", max_chars=200, width=320, placeholder="What it is for")
        create = st.form_submit_button("Create a key", type="primary", icon=":material/key:")
    if create:
        key, token = store.create(user, note, actor)
        _show_new(key, token)


@st.dialog("Your new key", icon=":material/key:", width="medium")
def _show_new(key: ApiKey, token: str) -> None:
    """The only moment in which a key is seen. A closed dialog is gone: it lies in no session's state."""
    st.markdown(f"Copy it now: it is not shown again. Its turns are those of {shell.plain(key.user)}.")
    st.code(token, language=None, wrap_lines=True)
    st.markdown("A request with it, to a server on port 8000 of this machine:")
    st.code(
        f"curl http://127.0.0.1:8000/v1/chat/completions \\\n  -H 'Authorization: Bearer {token}' \\\n"
        f"  -H 'Content-Type: application/json' \\\n  -d '{_BODY}'",
        language="bash",
        wrap_lines=True,
    )
    st.page_link(shell.page("deploy"), label="Start such a server: Deploy", icon=":material/rocket_launch:")


def _list(store: KeyStore, keys: list[ApiKey], actor: Actor) -> None:
    if not keys:
        st.markdown("There are none yet.")
        return
    rows = [
        {
            "Key": f"phi3kit_{key.id}_…",
            "User": key.user,
            "Note": key.note,
            "State": "revoked" if key.revoked_at else "live",
            "Created": _moment(key.created_at),
            "Last used": _moment(key.last_used_at),
        }
        for key in keys
    ]
    at = choose_row(rows, "access_keys", "API keys", {"Created": DATE, "Last used": DATE})
    key = None if at is None else keys[at]
    live = key is not None and key.revoked_at is None
    st.button(
        f"Revoke {key.id}" if key and live else "Revoke",
        icon=":material/block:",
        key="access_revoke",
        disabled=not live,
        help="Choose a live key in the table. It ends at once and for good.",
        on_click=clicks.attempt,
        args=(lambda: store.revoke(key.id if key else "", actor), "The key is revoked."),
    )


def _moment(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, ZoneInfo(shell.timezone()))
