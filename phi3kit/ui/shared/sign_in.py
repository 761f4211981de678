"""Signing in: the only page for who is not inside, and who is inside in the sidebar.

Knows how they are drawn. Who somebody is, visitors say.
"""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from phi3kit.access import sign_in_setup
from phi3kit.core.errors import Phi3KitError, SettingInvalid
from phi3kit.ui.shared import resources, shell, visitors


def is_outside() -> bool:
    """Whether this person may see no page. Where nothing can be known, nobody may."""
    try:
        return resources.actor().role == "nobody"
    except Phi3KitError:
        return True


def show() -> None:
    """What is shown outside, instead of every page."""
    st.title("phi3kit")
    with shell.errors_shown():
        name = resources.actor().name
        if name:
            _show_without_role(name)
        else:
            _show_doors(_section())


def _show_doors(section: Mapping[str, Any]) -> None:
    try:
        sign_in_setup.check(section, st.get_option("server.trustedUserHeaders"))
    except SettingInvalid as error:
        shell.show_error(error)
        st.code(sign_in_setup.EXAMPLE, language="toml")
        return
    st.markdown(
        "Your session has ended: sign in again to go on."
        if visitors.has_session_ended()
        else "This app is open to its team: sign in to use it."
    )
    for provider in sign_in_setup.providers(section):
        label = "Sign in" if provider is None else f"Sign in with {shell.plain(provider)}"
        st.button(
            label,
            type="primary",
            icon=":material/login:",
            key=f"sign_in_{provider}",
            on_click=st.login,
            args=() if provider is None else (provider,),
        )


def person() -> None:
    """Who is inside, in which role, and the way out; nothing on one's own machine."""
    if resources.settings().profile != "team":
        return
    actor = resources.actor()
    st.markdown(f":material/account_circle: {shell.plain(actor.name)} · {actor.role}")
    _sign_out_button()


def _show_without_role(name: str) -> None:
    st.warning(
        f"**You may not use this app yet.** You signed in as {shell.plain(name)}, and this name has no role here.\n\n"
        "Ask whoever runs this app to put this name on one of its lists, then sign in again.",
        icon=":material/lock:",
    )
    st.code(name, language=None)
    _sign_out_button()


def _sign_out_button() -> None:
    st.button("Sign out", icon=":material/logout:", key="sign_out", on_click=visitors.sign_out)


def _section() -> Mapping[str, Any]:
    """[auth] of secrets.toml, as far as there is one."""
    found = resources.secrets().get("auth")
    return found if isinstance(found, Mapping) else {}
