"""Account: who is at this tab, their rights and limits; for administrators everybody's use and the data folder.

Knows how they are drawn. Does not know what is allowed, counted or deleted.
"""

import streamlit as st

from phi3kit.access.actor import Actor
from phi3kit.access.roles import rights
from phi3kit.core.data_folder import disk_bytes
from phi3kit.core.settings import Settings
from phi3kit.tracking.upkeep import clean_up
from phi3kit.ui.shared import actions, resources, shell
from phi3kit.ui.shared.literal import literal
from phi3kit.usage.allowances import allowances, everybody, sizes

_PROFILES = {
    "local": "This is your own machine (profile local), and everything is allowed.",
    "team": "This app is open to people who sign in (profile team).",
    "public": "This is a public demo (profile public): you are anonymous, and your conversations are not saved.",
}
_DAY_S = 86_400.0
_AGES = {"a day": _DAY_S, "a week": 7 * _DAY_S, "a month": 30 * _DAY_S}


def show_person(actor: Actor, settings: Settings) -> None:
    """Name, role and profile, in a sentence."""
    st.markdown(f"You are **{literal(actor.name)}**, role **{actor.role}**. {_PROFILES[settings.profile]}")


def show_rights(actor: Actor) -> None:
    """What this person may do, and what not."""
    may, may_not = rights(actor.role)
    with st.container(border=True, height="stretch"):
        st.markdown("**What you may do**")
        if may:
            st.markdown(f":material/check: {literal(' · '.join(may), inside=True)}")
        if may_not:
            st.markdown(f":material/lock: Not allowed: {literal(' · '.join(may_not), inside=True)}")


def show_limits(actor: Actor, settings: Settings) -> None:
    """How much of each limit is used."""
    with st.container(border=True, height="stretch"), shell.errors_shown():
        st.markdown("**Your limits**")
        found = allowances(settings.limits, resources.kit().outbox, actor.name)
        for each in found:
            st.progress(each.share, f"{each.used:,} of {each.most:,} {each.what}")
        if bounds := sizes(settings.limits):
            st.caption(f"Maximum: {'; '.join(bounds)}.")
        elif not found:
            st.markdown("No limits are set.")


def show_everybody(actor: Actor, settings: Settings) -> None:
    """What each user did lately."""
    if not actor.may("administer"):
        return
    with st.container(border=True), shell.errors_shown():
        st.markdown("**Usage by user**")
        found = everybody(actor, settings.limits, resources.kit().outbox)
        if not found:
            st.markdown("No activity today.")
            return
        rows = [
            {
                "User": each.counts.user,
                "Tokens today": each.tokens_today,
                "Refused today": each.refused_today,
                "Turns, 24 hours": each.counts.daily_turns,
                "Turns, last minute": each.counts.minute_turns,
                "Tokens, last minute": each.counts.minute_tokens,
                "Answers in progress": each.counts.at_once,
            }
            for each in found
        ]
        st.dataframe(rows, hide_index=True, key="access_uses", alt="Recent usage of each user")
        if not settings.limits.paces_users:
            st.caption("Turns are counted per user only when a limit on turns is set.")


def show_data_folder(actor: Actor, settings: Settings) -> None:
    """What the data folder takes, and a clean-up."""
    if not actor.may("administer"):
        return
    with st.container(border=True), shell.errors_shown():
        st.markdown("**Data folder**")
        held, most = disk_bytes(settings.home), settings.limits.disk_mb
        if most is None:
            st.markdown(f"{held / 1e6:,.0f} MB used.")
        else:
            st.progress(min(1.0, held / (most * 1e6)), f"{held / 1e6:,.0f} of {most:,} MB (PHI3KIT_DISK_MB)")
        if hours := settings.limits.keep_hours:
            st.caption(f"Anything older than {hours} h is deleted automatically.")
        with st.container(horizontal=True, vertical_alignment="bottom"):
            age = st.selectbox("Older than", list(_AGES), key="access_age", width=160)
            if st.button("Clean up", icon=":material/cleaning_services:", key="access_clean_up"):
                _confirm_clean_up(age, actor, settings)


@st.dialog("Clean up?", icon=":material/cleaning_services:")
def _confirm_clean_up(age: str, actor: Actor, settings: Settings) -> None:
    st.markdown(
        f"This permanently deletes anything older than {age}: finished builds, batches **with their results**, evaluation progress, "
        "uploads, bundles, logs, and copies of remote models."
    )
    st.markdown("Models, turns, conversations, connections and keys are kept.")
    actions.confirm(
        lambda: clean_up(actor, settings, _AGES[age]),
        lambda cleaned: f"Cleaned up: {cleaned.files_bytes / 1e6:,.1f} MB freed.",
    )
