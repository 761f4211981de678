"""Version cards: a registered version with its aliases, description and tags, and the logged model behind it.

Knows widgets and what they call. What a version is, the registry knows.
"""

from functools import partial

import pandas as pd
import streamlit as st

from phi3kit.core.errors import RequestInvalid
from phi3kit.tracking import registry as registry
from phi3kit.tracking.registry import CHALLENGER, CHAMPION, RegisteredModel, Version
from phi3kit.ui.models import model_cards
from phi3kit.ui.shared import actions, permissions, resources, shell, theme
from phi3kit.ui.shared.row_choice import DATE, choose_row


def versions_table(registered: list[RegisteredModel]) -> Version:
    """Every registered version in a table; the chosen one, or the first."""
    found = [version for each in registered for version in each.versions]
    rows = [
        {
            "name": version.name,
            "version": version.version,
            "aliases": list(version.aliases),
            "wrapper": version.model.wrapper if version.model else "gone",
            "description": version.description,
            "size": version.model.size_bytes / 1e6 if version.model and version.model.size_bytes else None,
            "tags": [f"{key}={value}" for key, value in version.tags],
            "registered": pd.Timestamp(version.created_at).tz_convert(shell.timezone()),
        }
        for version in found
    ]
    chosen = choose_row(
        rows,
        "versions",
        "Registered versions",
        {
            "aliases": st.column_config.ListColumn("aliases"),
            "size": st.column_config.NumberColumn("size, MB", format="%.1f"),
            "registered": DATE,
        },
    )
    if len(found) > 1 and chosen is None:
        st.caption("Choose a row to see another one.")
    return found[chosen or 0]


def show_version(version: Version, registered: list[RegisteredModel]) -> None:
    """A registered version: aliases, description, tags; and the logged model behind it."""
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            badge = theme.badge(version.model.wrapper) if version.model else ":gray-badge[gone]"
            st.markdown(f"**{shell.plain(version.name)}, version {version.version}** {badge}", width="content")
            if version.model:
                st.caption(model_cards.facts(version.model), width="content")
        st.code(
            "\n".join([version.model_uri, *(f"models:/{version.name}@{each}" for each in version.aliases)]),
            language=None,
        )
        if version.model is None:
            st.warning(
                "Its logged model was deleted, or is not one of the two wrappers: this version leads nowhere.",
                icon=":material/link_off:",
            )
        with st.container(horizontal=True):
            _alias_buttons(version)
            with st.popover("Annotate", icon=":material/edit_note:", disabled=not permissions.may("register")):
                _annotate_form(version, registered)
            if version.model:
                model_cards.load_buttons(version.model)
                model_cards.links(version.model_uri, version.model)
            if st.button(
                "Delete version",
                icon=":material/delete:",
                key="delete_version",
                disabled=not permissions.may("delete"),
            ):
                _confirm_delete_version(version)
        if version.description:
            st.caption(shell.plain(version.description))
    if version.model:
        with st.expander("The logged model behind it"):
            st.code(version.logged_model or "", language=None)
            model_cards.show_use(version.model, registered)


def _alias_buttons(version: Version) -> None:
    actor, settings = resources.actor(), resources.settings()
    for alias in (CHAMPION, CHALLENGER):
        set_already = alias in version.aliases
        act = (
            partial(registry.remove_alias, version.name, alias, actor, settings)
            if set_already
            else partial(registry.set_alias, version.name, alias, version.version, actor, settings)
        )
        done = (
            f"{version.name}@{alias} {'points nowhere now' if set_already else f'points to version {version.version}'}"
        )
        st.button(
            f"Remove {alias}" if set_already else f"Make {alias}",
            icon=":material/star:" if alias == CHAMPION else ":material/swords:",
            on_click=actions.attempt,
            args=(act, done),
            key=f"alias_{alias}",
            disabled=not permissions.may("register"),
            help=f"models:/{version.name}@{alias} leads to the version that has this alias; workers follow it.",
        )
    with st.popover("Alias", icon=":material/label:", disabled=not permissions.may("register")):
        with st.form("alias_form", border=False, clear_on_submit=True):
            own = st.text_input("Alias of your own", placeholder="for example staging")
            if st.form_submit_button("Set", icon=":material/label:"):
                act = partial(registry.set_alias, version.name, own.strip(), version.version, actor, settings)
                actions.attempt(act, f"{version.name}@{own.strip()} points to version {version.version}")
                st.rerun()
        for each in version.aliases:
            st.button(
                f"Remove {each}",
                key=f"remove_alias_{each}",
                on_click=actions.attempt,
                args=(
                    partial(registry.remove_alias, version.name, each, actor, settings),
                    f"Removed {version.name}@{each}",
                ),
            )


def _annotate_form(version: Version, registered: list[RegisteredModel]) -> None:
    actor, settings = resources.actor(), resources.settings()
    whole = next(each for each in registered if each.name == version.name)
    with st.form(f"annotate_{version.model_uri}", border=False):
        description = st.text_area(f"Description of version {version.version}", version.description, height=80)
        about = st.text_area(f"Description of {version.name}", whole.description, height=80)
        tags = st.text_area(
            "Tags",
            "\n".join(f"{key}={value}" for key, value in version.tags),
            height=100,
            placeholder="key=value, one a line",
        )

        def save() -> None:
            given = _read_tags(tags)
            registry.describe(version.name, version.version, description, actor, settings)
            registry.describe(version.name, None, about, actor, settings)
            registry.set_tags(version.name, version.version, given, actor, settings)

        if st.form_submit_button("Save", icon=":material/save:"):
            actions.attempt(save, f"Saved {version.model_uri}")
            st.rerun()


def _read_tags(text: str) -> dict[str, str]:
    """Raises RequestInvalid for a line without a key."""
    tags = {}
    for line in text.splitlines():
        key, equals, value = (part.strip() for part in line.partition("="))
        if line.strip() and not (key and equals):
            raise RequestInvalid("The tags cannot be saved.", f"{line!r} has no =.", "Write key=value, one a line.")
        if key:
            tags[key] = value
    return tags


@st.dialog("Delete this version?")
def _confirm_delete_version(version: Version) -> None:
    st.markdown(f"**{shell.plain(version.name)}, version {version.version}**")
    if version.aliases:
        names = ", ".join(f"{version.name}@{each}" for each in version.aliases)
        st.markdown(f"Who asks for **{shell.plain(names)}** finds nothing afterwards.")
    st.caption("The logged model and its files stay.")
    act = partial(registry.delete_version, version.name, version.version, resources.actor(), resources.settings())
    actions.confirm(act, f"Deleted {version.model_uri}")
