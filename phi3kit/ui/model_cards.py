"""Model cards: a logged model or a registered version with everything that is known of it and can be done with it.

Knows widgets and what they call. What a version is, the registry knows.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import pandas as pd
import streamlit as st

from phi3kit.errors import RequestInvalid
from phi3kit.registry import names as registry
from phi3kit.registry import versions
from phi3kit.registry.logged_models import LoggedModel
from phi3kit.registry.names import CHALLENGER, CHAMPION, RegisteredModel, Version
from phi3kit.signatures.describe import describe
from phi3kit.ui import acting, resources, shell, theme
from phi3kit.usage.summary import totals

_NOTATION_HEIGHT = 230  # pixels, in which a long signature scrolls
_LONG_NOTATION = 500  # characters


def logged_table(models: list[LoggedModel], registered: list[RegisteredModel]) -> LoggedModel:
    """Every logged model in a table; the chosen one, or the newest."""
    turns = resources.turns()
    loaded = {status.model_uri for status in resources.kit().pool.statuses() if status.state == "ready"}
    rows = []
    for model in models:
        measured = totals(versions.turns_of(turns, model.model_uri, registered))
        rows.append(
            {
                "wrapper": model.wrapper,
                "source": shell.source_label(model.source),
                "precision": model.precision,
                "size": None if model.size_bytes is None else model.size_bytes / 1e6,
                "state": "files gone" if model.files_gone else "loaded" if model.model_uri in loaded else "",
                "registered as": [_version_label(each) for each in _versions_of(model, registered)],
                "turns": measured.turns,
                "tokens/s": measured.tokens_per_second_median,
                "built": pd.Timestamp(model.created_at).tz_convert(shell.timezone()),
                "model_uri": model.model_uri,
            }
        )
    chosen = st.dataframe(
        rows,
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key="logged_models",
        alt="Logged models",
        column_config={
            "size": st.column_config.NumberColumn("size, MB", format="%.1f"),
            "tokens/s": st.column_config.NumberColumn("tokens/s, median", format="%.0f"),
            "built": st.column_config.DatetimeColumn(format="D MMM YYYY, HH:mm:ss"),
            "registered as": st.column_config.ListColumn("registered as"),
        },
    )
    at = chosen.selection.rows[0] if chosen.selection.rows else 0
    if not chosen.selection.rows:
        st.caption("Choose a row to see another one; the newest is shown.")
    return models[at if at < len(models) else 0]


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
    chosen = st.dataframe(
        rows,
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key="versions",
        alt="Registered versions",
        column_config={
            "aliases": st.column_config.ListColumn("aliases"),
            "size": st.column_config.NumberColumn("size, MB", format="%.1f"),
            "registered": st.column_config.DatetimeColumn(format="D MMM YYYY, HH:mm:ss"),
        },
    )
    at = chosen.selection.rows[0] if chosen.selection.rows else 0
    if len(found) > 1 and not chosen.selection.rows:
        st.caption("Choose a row to see another one.")
    return found[at if at < len(found) else 0]


def show_model(model: LoggedModel, registered: list[RegisteredModel]) -> None:
    """A logged model: what it is, what can be done with it, signature, files, use."""
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**Logged model** {theme.badge(model.wrapper)}", width="content")
            st.caption(_facts(model), width="content")
        st.code(model.model_uri, language=None)
        if model.files_gone:
            st.warning(
                "Its files are gone from the store: it can only be deleted, and built again.", icon=":material/warning:"
            )
        with st.container(horizontal=True):
            load_buttons(model)
            _register_form(model)
            if st.button("Delete", icon=":material/delete:", key="delete_model"):
                _confirm_delete(model, registered)
            _links(model.model_uri, model)
        if model.files_gone:
            return
        signature, files, use = st.tabs(["Signature", "Files", "Use"])
        with signature, shell.errors_shown():
            notation = describe(resources.signature(model.model_uri)).notation
            height: int | Literal["content"] = _NOTATION_HEIGHT if len(notation) > _LONG_NOTATION else "content"
            st.code(notation, language=None, wrap_lines=True, height=height)
        with files, shell.errors_shown():
            table = pd.DataFrame(resources.files(model.model_uri), columns=["file", "bytes"])
            st.dataframe(
                table, hide_index=True, column_config={"bytes": st.column_config.NumberColumn(format="localized")}
            )
        with use:
            _show_use(model, registered)


def _links(model_uri: str, model: LoggedModel) -> None:
    """To the pages that use a model, with it chosen there."""
    if st.button("Talk", icon=":material/forum:", key="talk", disabled=model.files_gone):
        st.session_state["chat_wrapper"] = model.wrapper
        st.session_state[f"chat_model_{model.wrapper}"] = model.model_uri
        st.switch_page(shell.page("chat"))
    if st.button("Deploy", icon=":material/rocket_launch:", key="deploy", disabled=model.files_gone):
        st.session_state["deploy_model"] = model_uri
        st.switch_page(shell.page("deploy"))


def load_buttons(model: LoggedModel) -> None:
    """Load or unload a model's worker."""
    pool = resources.kit().pool
    running = any(each.model_uri == model.model_uri and each.state != "stopped" for each in pool.statuses())
    if running:
        st.button("Unload", icon=":material/eject:", on_click=pool.stop, args=(model.model_uri,), key="unload")
    elif st.button("Load", icon=":material/memory:", key="load", disabled=model.files_gone):
        with st.spinner("Starting the worker and loading the model"):
            acting.attempt(lambda: pool.endpoint(model.model_uri), f"Loaded {model.model_uri}")
        st.rerun()


def show_version(version: Version, registered: list[RegisteredModel]) -> None:
    """A registered version: aliases, description, tags; and the logged model behind it."""
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            badge = theme.badge(version.model.wrapper) if version.model else ":gray-badge[gone]"
            st.markdown(f"**{shell.plain(version.name)}, version {version.version}** {badge}", width="content")
            if version.model:
                st.caption(_facts(version.model), width="content")
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
            with st.popover("Annotate", icon=":material/edit_note:"):
                _annotate_form(version, registered)
            if version.model:
                load_buttons(version.model)
                _links(version.model_uri, version.model)
            if st.button("Delete version", icon=":material/delete:", key="delete_version"):
                _confirm_delete_version(version)
        if version.description:
            st.caption(shell.plain(version.description))
    if version.model:
        with st.expander("The logged model behind it"):
            st.code(version.logged_model or "", language=None)
            _show_use(version.model, registered)


def _facts(model: LoggedModel) -> str:
    parts = [shell.model_label(model), f"context {model.context_tokens:,} tokens"]
    if model.size_bytes is not None:
        parts.insert(0, shell.size(model.size_bytes))
    return shell.plain(" · ".join(parts))


def _show_use(model: LoggedModel, registered: list[RegisteredModel]) -> None:
    turns = versions.turns_of(resources.turns(), model.model_uri, registered)
    measured = totals(turns)
    names = [_version_label(each) for each in _versions_of(model, registered)]
    st.caption(shell.plain(f"Registered as {', '.join(names)}." if names else "Not registered."))
    if not measured.turns:
        st.caption("No turn was logged with it yet.")
        return
    speed, first = measured.tokens_per_second_median, measured.time_to_first_token_p95_s
    with st.container(horizontal=True):
        st.metric("Turns", f"{measured.turns:,}", border=True)
        st.metric("Tokens", f"{measured.total_tokens:,}", border=True)
        st.metric("Tokens/s, median", f"{speed:,.0f}" if speed is not None else "–", border=True)
        st.metric("Time to first token, p95", shell.seconds(first), border=True)
    origins = turns.groupby(["origin", "user"]).size().rename("turns").reset_index()
    st.dataframe(origins, hide_index=True, alt="Turns by origin and user")


def _alias_buttons(version: Version) -> None:
    settings = resources.kit().settings
    for alias in (CHAMPION, CHALLENGER):
        set_already = alias in version.aliases
        act = (
            partial(registry.remove_alias, version.name, alias, settings)
            if set_already
            else partial(registry.set_alias, version.name, alias, version.version, settings)
        )
        done = (
            f"{version.name}@{alias} {'points nowhere now' if set_already else f'points to version {version.version}'}"
        )
        st.button(
            f"Remove {alias}" if set_already else f"Make {alias}",
            icon=":material/star:" if alias == CHAMPION else ":material/swords:",
            on_click=acting.attempt,
            args=(act, done),
            key=f"alias_{alias}",
            help=f"models:/{version.name}@{alias} leads to the version that has this alias; workers follow it.",
        )
    with st.popover("Alias", icon=":material/label:"):
        with st.form("alias_form", border=False, clear_on_submit=True):
            own = st.text_input("Alias of your own", placeholder="for example staging")
            if st.form_submit_button("Set", icon=":material/label:"):
                act = partial(registry.set_alias, version.name, own.strip(), version.version, settings)
                acting.attempt(act, f"{version.name}@{own.strip()} points to version {version.version}")
                st.rerun()
        for each in version.aliases:
            st.button(
                f"Remove {each}",
                key=f"remove_alias_{each}",
                on_click=acting.attempt,
                args=(partial(registry.remove_alias, version.name, each, settings), f"Removed {version.name}@{each}"),
            )


def _annotate_form(version: Version, registered: list[RegisteredModel]) -> None:
    settings = resources.kit().settings
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
            registry.describe(version.name, version.version, description, settings)
            registry.describe(version.name, None, about, settings)
            registry.set_tags(version.name, version.version, given, settings)

        if st.form_submit_button("Save", icon=":material/save:"):
            acting.attempt(save, f"Saved {version.model_uri}")
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


def _register_form(model: LoggedModel) -> None:
    with (
        st.popover("Register", icon=":material/bookmark_add:", disabled=model.files_gone),
        st.form("register_form", border=False, clear_on_submit=True),
    ):
        name = st.text_input("Name in the Model Registry", placeholder=f"phi3-{model.wrapper}", help="Adds a version.")
        description = st.text_area("Description", height=80)
        aliases = st.pills("Aliases", [CHAMPION, CHALLENGER], selection_mode="multi")
        if st.form_submit_button("Register", icon=":material/bookmark_add:"):
            named = name.strip() or f"phi3-{model.wrapper}"
            act = partial(
                registry.register, model.model_uri, named, resources.kit().settings,
                description=description, aliases=tuple(aliases),
            )  # fmt: skip
            acting.attempt(act, f"Registered as {named}")
            st.rerun()


@st.dialog("Delete this logged model?")
def _confirm_delete(model: LoggedModel, registered: list[RegisteredModel]) -> None:
    gone = [f"**{shell.size(model.size_bytes)}** of files" if model.size_bytes else "its files"]
    gone += [f"version **{shell.plain(_version_label(each))}**" for each in _versions_of(model, registered)]
    st.markdown(f"{theme.badge(model.wrapper)} {shell.plain(shell.model_label(model))}")
    st.markdown("This deletes, and nothing brings it back:\n" + "\n".join(f"- {each}" for each in gone))
    turns = len(versions.turns_of(resources.turns(), model.model_uri, registered))
    st.caption(f"Its worker ends. Its run and its {turns:,} logged turns stay.")
    _confirm(partial(_delete_model, model), f"Deleted {model.model_uri}")


def _delete_model(model: LoggedModel) -> None:
    shared = resources.kit()
    shared.pool.stop(model.model_uri)
    shared.servers.stop(model.model_uri)
    registry.delete_model(model.model_uri, shared.settings)


@st.dialog("Delete this version?")
def _confirm_delete_version(version: Version) -> None:
    st.markdown(f"**{shell.plain(version.name)}, version {version.version}**")
    if version.aliases:
        names = ", ".join(f"{version.name}@{each}" for each in version.aliases)
        st.markdown(f"Who asks for **{shell.plain(names)}** finds nothing afterwards.")
    st.caption("The logged model and its files stay.")
    act = partial(registry.delete_version, version.name, version.version, resources.kit().settings)
    _confirm(act, f"Deleted {version.model_uri}")


def _confirm(act: Callable[[], object], done: str) -> None:
    """The two buttons under a question; either closes it."""
    with st.container(horizontal=True, horizontal_alignment="right"):
        keep = st.button("Keep", key="keep")
        delete = st.button(
            "Delete",
            type="primary",
            icon=":material/delete:",
            key="confirm_delete",
            on_click=acting.attempt,
            args=(act, done),
        )
        if keep or delete:
            st.rerun()


def _versions_of(model: LoggedModel, registered: list[RegisteredModel]) -> list[Version]:
    return [version for each in registered for version in each.versions if version.logged_model == model.model_uri]


def _version_label(version: Version) -> str:
    return " ".join([f"{version.name}/{version.version}", *(f"@{alias}" for alias in version.aliases)])
