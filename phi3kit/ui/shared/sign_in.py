"""Sign-in: the only page for who is outside, and in the sidebar the name of who is inside.

Knows how they are drawn. Does not decide who somebody is: visitors does.
"""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from phi3kit.access import sign_in_setup
from phi3kit.access.sign_in_claims import Person
from phi3kit.core.errors import Phi3KitError, SettingInvalid
from phi3kit.core.settings import providers
from phi3kit.ui.shared import resources, shell, theme, visitors
from phi3kit.ui.shared.literal import literal


def is_outside() -> bool:
    """Whether this person may see no page; so does everybody while nothing can be known."""
    try:
        return resources.actor().role == "nobody"
    except Phi3KitError:
        return True


def show_outside() -> None:
    """What is shown instead of every page."""
    st.title("phi3kit")
    with shell.errors_shown():
        if person := visitors.person(resources.settings()):
            _show_without_role(person)
        else:
            _show_providers(_section())


def _show_providers(section: Mapping[str, Any]) -> None:
    try:
        sign_in_setup.check(section, st.get_option("server.trustedUserHeaders"))
    except SettingInvalid as error:
        shell.show_error(error)
        st.code(sign_in_setup.EXAMPLE, language="toml")
        return
    st.markdown(
        "Your session has ended. Sign in again to continue."
        if visitors.has_session_ended(resources.settings())
        else "This app is open to its team. Sign in to use it."
    )
    for provider in providers(section):
        label = "Sign in" if provider is None else f"Sign in with {literal(provider, inside=True)}"
        st.button(
            theme.on_primary(label),
            type="primary",
            icon=":material/login:",
            key=f"sign_in_{provider}",
            on_click=st.login,
            args=() if provider is None else (provider,),
        )


def show_person() -> None:
    """Name, role and the button to sign out; nothing on one's own machine."""
    if resources.settings().profile != "team":
        return
    actor = resources.actor()
    person = visitors.person(resources.settings())
    label = person.label if person else actor.name
    st.markdown(f":material/account_circle: {literal(label, inside=True)} · {actor.role}")
    _sign_out_button()


def _show_without_role(person: Person) -> None:
    st.warning(
        f"You signed in as {literal(person.label, inside=True)}, but you have no role here.\n\n"
        "Ask whoever runs this app to add one of these lines to its lists, then sign in again.",
        title="You do not have access yet.",
        icon=":material/lock:",
    )
    st.code("\n".join(person.entries(resources.settings().role_lists)), language=None)
    _sign_out_button()


def _sign_out_button() -> None:
    st.button(
        "Sign out", icon=":material/logout:", key="sign_out", on_click=visitors.sign_out, args=(resources.settings(),)
    )


def _section() -> Mapping[str, Any]:
    """[auth] of secrets.toml; empty without one."""
    found = resources.secrets().get("auth")
    return found if isinstance(found, Mapping) else {}
