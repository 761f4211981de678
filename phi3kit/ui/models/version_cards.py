"""Version cards: the registered versions in a table, and one with its aliases, description, tags and logged model.

Knows widgets and what they call. Does not know how the registry keeps them.
"""

from collections.abc import Callable
from functools import partial

import streamlit as st

from phi3kit.core.errors import RequestInvalid
from phi3kit.tracking import registry
from phi3kit.tracking.registry import CHALLENGER, CHAMPION, RegisteredModel, Version
from phi3kit.ui.models import model_cards
from phi3kit.ui.shared import actions, elements, permissions, resources, theme, words
from phi3kit.ui.shared.literal import literal


def choose_version(registered: list[RegisteredModel]) -> Version:
    """Every registered version in a table; the chosen one, or the first."""
    found = [version for each in registered for version in each.versions]
    rows = [
        {
            "name": version.name,
            "version": version.version,
            "aliases": list(version.aliases),
            "wrapper": version.model.wrapper if version.model else "deleted",
            "description": version.description,
            "size": version.model.size_bytes / 1e6 if version.model and version.model.size_bytes else None,
            "tags": [f"{key}={value}" for key, value in version.tags],
            "registered": words.local(version.created_at),
        }
        for version in found
    ]
    columns = {
        "aliases": st.column_config.ListColumn("aliases"),
        "size": elements.MEGABYTES,
        "registered": elements.DATE,
    }
    by_uri = {version.model_uri: version for version in found}
    chosen = elements.choose_row(rows, list(by_uri), "versions", "Registered versions", columns)
    if len(found) > 1 and chosen is None:
        st.caption("Select a row for details.")
    return by_uri[chosen] if chosen else found[0]


def show_version(version: Version, registered: list[RegisteredModel]) -> None:
    """A registered version: aliases, description, tags; and the logged model behind it."""
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            badge = theme.badge(version.model.wrapper) if version.model else ":gray-badge[deleted]"
            st.markdown(f"**{literal(version.name)}, version {version.version}** {badge}", width="content")
            if version.model:
                st.caption(model_cards.facts(version.model), width="content")
        uris = [version.model_uri, *(f"models:/{version.name}@{alias}" for alias in version.aliases)]
        st.code("\n".join(uris), language=None)
        if version.model is None:
            st.warning(
                "This version has no model: its logged model was deleted, or is not one of the two wrappers.",
                icon=":material/link_off:",
            )
        with st.container(horizontal=True):
            _show_alias_buttons(version)
            off = not permissions.may("register")
            with actions.popover("Annotate", "annotate", icon=":material/edit_note:", disabled=off):
                _show_notes_form(version, registered)
            if version.model:
                model_cards.show_load_button(version.model)
                model_cards.show_links(version.model_uri, version.model)
            if permissions.button(
                "Delete version", "delete", icon=":material/delete:", key=f"delete_{version.model_uri}"
            ):
                _confirm_delete(version)
        if version.description:
            st.caption(literal(version.description))
    if version.model:
        with st.expander("Logged model"):
            st.code(version.logged_model or "", language=None)
            model_cards.show_use(version.model, registered)


def _show_alias_buttons(version: Version) -> None:
    actor, settings = resources.actor(), resources.settings()
    name, number = version.name, version.version

    def remove(alias: str) -> tuple[Callable[[], object], str]:
        return partial(registry.remove_alias, name, alias, actor, settings), f"{name}@{alias} was removed"

    def move_here(alias: str) -> tuple[Callable[[], object], str]:
        act = partial(registry.set_alias, name, alias, number, actor, settings)
        return act, f"{name}@{alias} points to version {number}"

    for alias in (CHAMPION, CHALLENGER):
        here = alias in version.aliases
        permissions.button(
            f"Remove {alias}" if here else f"Make {alias}",
            "register",
            icon=":material/star:" if alias == CHAMPION else ":material/swords:",
            on_click=actions.attempt,
            args=remove(alias) if here else move_here(alias),
            key=f"alias_{alias}_{version.model_uri}",
            help=f"{literal(f'models:/{name}@{alias}')} resolves to the version that has this alias. Workers follow it.",
        )
    disabled = not permissions.may("register")
    with actions.popover("Alias", "alias", icon=":material/label:", disabled=disabled):
        with st.form(f"alias_form_{version.model_uri}", border=False, clear_on_submit=True):
            own = st.text_input("Custom alias", placeholder="For example staging")
            if st.form_submit_button("Set", icon=":material/label:", disabled=disabled):
                actions.attempt(*move_here(own.strip()))
                st.rerun()
        for alias in version.aliases:
            permissions.button(
                f"Remove {alias}",
                "register",
                key=f"remove_alias_{alias}_{version.model_uri}",
                on_click=actions.attempt,
                args=remove(alias),
            )


def _show_notes_form(version: Version, registered: list[RegisteredModel]) -> None:
    actor, settings = resources.actor(), resources.settings()
    whole = next(each for each in registered if each.name == version.name)
    with st.form(f"annotate_{version.model_uri}", border=False):
        description = st.text_area(f"Description of version {version.version}", version.description, height=80)
        about = st.text_area(f"Description of {version.name}", whole.description, height=80)
        known = "\n".join(f"{key}={value}" for key, value in version.tags)
        tags = st.text_area("Tags", known, height=100, placeholder="key=value, one per line")

        def save() -> None:
            given = _read_tags(tags)
            registry.describe(version.name, version.version, description, actor, settings)
            registry.describe(version.name, None, about, actor, settings)
            registry.set_tags(version.name, version.version, given, actor, settings)

        if st.form_submit_button("Save", icon=":material/save:", disabled=not permissions.may("register")):
            actions.attempt(save, f"Saved {version.model_uri}")
            st.rerun()


def _read_tags(text: str) -> dict[str, str]:
    """Raises RequestInvalid for a line without a key."""
    tags = {}
    for line in text.splitlines():
        key, equals, value = (part.strip() for part in line.partition("="))
        if line.strip() and not (key and equals):
            raise RequestInvalid("The tags cannot be saved.", f"{line!r} has no =.", "Write key=value, one per line.")
        if key:
            tags[key] = value
    return tags


@st.dialog("Delete this version?")
def _confirm_delete(version: Version) -> None:
    st.markdown(f"**{literal(version.name)}, version {version.version}**")
    if version.aliases:
        names = ", ".join(f"{version.name}@{each}" for each in version.aliases)
        st.markdown(f"**{literal(names)}** will have no model.")
    st.caption("The logged model and its files are kept.")
    act = partial(registry.delete_version, version.name, version.version, resources.actor(), resources.settings())
    actions.confirm(act, f"Deleted {version.model_uri}")
