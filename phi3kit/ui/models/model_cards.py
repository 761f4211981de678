"""Model cards: a logged model with everything that is known of it and can be done with it.

Knows widgets and what they call. What a logged model is, the registry knows.
"""

from functools import partial
from typing import Literal

import pandas as pd
import streamlit as st

from phi3kit.endpoints import targets
from phi3kit.evaluation import model_comparison
from phi3kit.formats.signatures import describe
from phi3kit.tracking import registry as registry
from phi3kit.tracking.logged_models import LoggedModel
from phi3kit.tracking.registry import CHALLENGER, CHAMPION, RegisteredModel, Version
from phi3kit.ui.shared import actions, permissions, resources, shell, theme
from phi3kit.ui.shared.row_choice import DATE, choose_row
from phi3kit.usage.summary import totals

_NOTATION_HEIGHT = 230  # pixels, in which a long signature scrolls
_LONG_NOTATION = 500  # characters


def logged_table(models: list[LoggedModel], registered: list[RegisteredModel]) -> LoggedModel:
    """Every logged model in a table; the chosen one, or the newest."""
    turns = resources.turns()
    loaded = {status.model_uri for status in resources.kit().pool.statuses() if status.state == "ready"}
    rows = []
    for model in models:
        measured = totals(model_comparison.turns_of_model(turns, model.model_uri, registered))
        rows.append(
            {
                "wrapper": model.wrapper,
                "source": shell.source_label(model.source),
                "precision": model.precision,
                "size": None if model.size_bytes is None else model.size_bytes / 1e6,
                "state": "files gone" if model.files_gone else "loaded" if model.model_uri in loaded else "",
                "registered as": [version_label(each) for each in _versions_of(model, registered)],
                "turns": measured.turns,
                "tokens/s": measured.tokens_per_second_median,
                "built": pd.Timestamp(model.created_at).tz_convert(shell.timezone()),
                "model_uri": model.model_uri,
            }
        )
    chosen = choose_row(
        rows,
        "logged_models",
        "Logged models",
        {
            "size": st.column_config.NumberColumn("size, MB", format="%.1f"),
            "tokens/s": st.column_config.NumberColumn("tokens/s, median", format="%.0f"),
            "built": DATE,
            "registered as": st.column_config.ListColumn("registered as"),
        },
    )
    if chosen is None:
        st.caption("Choose a row to see another one; the newest is shown.")
    return models[chosen or 0]


def show_model(model: LoggedModel, registered: list[RegisteredModel]) -> None:
    """A logged model: what it is, what can be done with it, signature, files, use."""
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**Logged model** {theme.badge(model.wrapper)}", width="content")
            st.caption(facts(model), width="content")
        st.code(model.model_uri, language=None)
        if model.files_gone:
            st.warning(
                "Its files are gone from the store: it can only be deleted, and built again.", icon=":material/warning:"
            )
        with st.container(horizontal=True):
            load_buttons(model)
            _register_form(model)
            if st.button(
                "Delete", icon=":material/delete:", key="delete_model", disabled=not permissions.may("delete")
            ):
                _confirm_delete(model, registered)
            links(model.model_uri, model)
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
            show_use(model, registered)


def links(model_uri: str, model: LoggedModel) -> None:
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
        st.button(
            "Unload",
            icon=":material/eject:",
            on_click=pool.unload,
            args=(model.model_uri, resources.settings()),
            key="unload",
            disabled=not permissions.may("serve"),
        )
    elif st.button(
        "Load", icon=":material/memory:", key="load", disabled=model.files_gone or not permissions.may("talk")
    ):
        with st.spinner("Starting the worker and loading the model"):
            actions.attempt(lambda: resources.endpoint(targets.of_model(model, "")), f"Loaded {model.model_uri}")
        st.rerun()


def facts(model: LoggedModel) -> str:
    parts = [shell.model_label(model), f"context {model.context_tokens:,} tokens"]
    if model.size_bytes is not None:
        parts.insert(0, shell.size(model.size_bytes))
    return shell.plain(" · ".join(parts))


def show_use(model: LoggedModel, registered: list[RegisteredModel]) -> None:
    turns = model_comparison.turns_of_model(resources.turns(), model.model_uri, registered)
    measured = totals(turns)
    names = [version_label(each) for each in _versions_of(model, registered)]
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


def _register_form(model: LoggedModel) -> None:
    with (
        st.popover(
            "Register", icon=":material/bookmark_add:", disabled=model.files_gone or not permissions.may("register")
        ),
        st.form("register_form", border=False, clear_on_submit=True),
    ):
        name = st.text_input("Name in the Model Registry", placeholder=f"phi3-{model.wrapper}", help="Adds a version.")
        description = st.text_area("Description", height=80)
        aliases = st.pills("Aliases", [CHAMPION, CHALLENGER], selection_mode="multi")
        if st.form_submit_button("Register", icon=":material/bookmark_add:"):
            named = name.strip() or f"phi3-{model.wrapper}"
            act = partial(
                registry.register, model.model_uri, named, resources.actor(), resources.settings(),
                description=description, aliases=tuple(aliases),
            )  # fmt: skip
            actions.attempt(act, f"Registered as {named}")
            st.rerun()


@st.dialog("Delete this logged model?")
def _confirm_delete(model: LoggedModel, registered: list[RegisteredModel]) -> None:
    gone = [f"**{shell.size(model.size_bytes)}** of files" if model.size_bytes else "its files"]
    gone += [f"version **{shell.plain(version_label(each))}**" for each in _versions_of(model, registered)]
    st.markdown(f"{theme.badge(model.wrapper)} {shell.plain(shell.model_label(model))}")
    st.markdown("This deletes, and nothing brings it back:\n" + "\n".join(f"- {each}" for each in gone))
    turns = len(model_comparison.turns_of_model(resources.turns(), model.model_uri, registered))
    st.caption(f"Its worker ends. Its run and its {turns:,} logged turns stay.")
    actions.confirm(partial(_delete_model, model), f"Deleted {model.model_uri}")


def _delete_model(model: LoggedModel) -> None:
    shared, actor = resources.kit(), resources.actor()
    shared.pool.unload(model.model_uri, actor)
    shared.servers.stop(model.model_uri, actor)
    registry.delete_model(model.model_uri, actor, shared.settings)


def _versions_of(model: LoggedModel, registered: list[RegisteredModel]) -> list[Version]:
    return [version for each in registered for version in each.versions if version.logged_model == model.model_uri]


def version_label(version: Version) -> str:
    return " ".join([f"{version.name}/{version.version}", *(f"@{alias}" for alias in version.aliases)])
