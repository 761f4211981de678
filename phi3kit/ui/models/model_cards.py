"""Model cards: the logged models in a table, and one with everything that is known of it and can be done with it.

Knows widgets and what they call. Does not know how a model is logged, registered or deleted.
"""

from functools import partial

import streamlit as st

from phi3kit.endpoints import targets
from phi3kit.evaluation import model_comparison
from phi3kit.tracking import registry
from phi3kit.tracking.logged_models import LoggedModel
from phi3kit.tracking.registry import CHALLENGER, CHAMPION, RegisteredModel
from phi3kit.ui.shared import actions, elements, pages, permissions, resources, target_choice, theme, words
from phi3kit.ui.shared.literal import literal
from phi3kit.usage.summary import totals


def choose_model(models: list[LoggedModel], registered: list[RegisteredModel]) -> LoggedModel:
    """Every logged model in a table; the chosen one, or the newest."""
    turns = resources.turns()
    loaded = {status.model_uri for status in resources.kit().pool.statuses() if status.state == "ready"}
    rows = []
    for model in models:
        measured = totals(model_comparison.turns_of_model(turns, model.model_uri, registered))
        rows.append(
            {
                "wrapper": model.wrapper,
                "source": words.source_label(model.source),
                "precision": model.precision,
                "size": None if model.size_bytes is None else model.size_bytes / 1e6,
                "state": "files missing" if model.files_gone else "loaded" if model.model_uri in loaded else "",
                "registered as": _version_labels(model, registered),
                "turns": measured.turns,
                "tokens/s": measured.tokens_per_second_median,
                "built": words.local(model.created_at),
                "model_uri": model.model_uri,
            }
        )
    columns = {
        "size": elements.MEGABYTES,
        "tokens/s": st.column_config.NumberColumn("tokens/s, median", format="%.0f"),
        "built": elements.DATE,
        "registered as": st.column_config.ListColumn("registered as"),
    }
    by_uri = {model.model_uri: model for model in models}
    chosen = elements.choose_row(rows, list(by_uri), "logged_models", "Logged models", columns)
    if chosen is None:
        st.caption("Select a row for details. The newest model is shown.")
    return by_uri[chosen] if chosen else models[0]


def show_model(model: LoggedModel, registered: list[RegisteredModel]) -> None:
    """A logged model: what it is, what can be done with it, signature, files, use."""
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**Logged model** {theme.badge(model.wrapper)}", width="content")
            st.caption(facts(model), width="content")
        st.code(model.model_uri, language=None, wrap_lines=True)
        if model.files_gone:
            st.warning("Its files are missing from the store. Delete it and build it again.", icon=":material/warning:")
        with st.container(horizontal=True):
            show_load_button(model)
            _show_register_form(model)
            if permissions.button("Delete", "delete", icon=":material/delete:", key=f"delete_{model.model_uri}"):
                _confirm_delete(model, registered)
            show_links(model.model_uri, model)
        if model.files_gone:
            return
        signature, files, use = st.tabs(["Signature", "Files", "Use"])
        with signature:
            elements.show_signature(model.model_uri)
        with files:
            elements.show_files(model.model_uri)
        with use:
            show_use(model, registered)


def show_links(model_uri: str, model: LoggedModel) -> None:
    """To the pages that use a model, with it chosen there."""
    if st.button("Talk", icon=":material/forum:", key=f"talk_{model_uri}", disabled=model.files_gone):
        target_choice.set_target("chat", model.wrapper, model.model_uri)
        st.switch_page(pages.path("chat"))
    if st.button("Deploy", icon=":material/rocket_launch:", key=f"deploy_{model_uri}", disabled=model.files_gone):
        elements.set_choice("deploy_model", model_uri)
        st.switch_page(pages.path("deploy"))


def show_load_button(model: LoggedModel) -> None:
    """Load or unload a model's worker."""
    pool = resources.kit().pool
    if any(each.model_uri == model.model_uri and each.state != "stopped" for each in pool.statuses()):
        unload = partial(actions.attempt, partial(pool.unload, model.model_uri, resources.actor()))
        permissions.button("Unload", "serve", icon=":material/eject:", on_click=unload, key=f"unload_{model.model_uri}")
    elif permissions.button(
        "Load", "talk", icon=":material/memory:", key=f"load_{model.model_uri}", disabled=model.files_gone
    ):
        with st.spinner("Starting the worker and loading the model"):
            actions.attempt(lambda: resources.endpoint(targets.of_model(model, "")), f"Loaded {model.model_uri}")
        st.rerun()


def facts(model: LoggedModel) -> str:
    """Size, source, precision, date and context, in one line."""
    parts = [words.model_label(model), f"context {model.context_tokens:,} tokens"]
    if model.size_bytes is not None:
        parts.insert(0, words.size(model.size_bytes))
    return literal(" · ".join(parts))


def show_use(model: LoggedModel, registered: list[RegisteredModel]) -> None:
    """Under which names it is registered, and the turns that were logged with it."""
    turns = model_comparison.turns_of_model(resources.turns(), model.model_uri, registered)
    measured = totals(turns)
    names = _version_labels(model, registered)
    st.caption(literal(f"Registered as {', '.join(names)}." if names else "Not registered."))
    if not measured.turns:
        st.caption("No turns were logged with it yet.")
        return
    speed = measured.tokens_per_second_median
    elements.show_metrics(
        {
            "Turns": f"{measured.turns:,}",
            "Tokens": f"{measured.total_tokens:,}",
            "Tokens/s, median": f"{speed:,.0f}" if speed is not None else "–",
            "Time to first token, p95": words.seconds(measured.time_to_first_token_p95_s),
        }
    )
    origins = turns.groupby(["origin", "user"]).size().rename("turns").reset_index()
    st.dataframe(origins, hide_index=True, alt="Turns by origin and user")


def _show_register_form(model: LoggedModel) -> None:
    disabled = model.files_gone or not permissions.may("register")
    with (
        actions.popover("Register", "register", icon=":material/bookmark_add:", disabled=disabled),
        st.form(f"register_{model.model_uri}", border=False, clear_on_submit=True),
    ):
        usual = f"phi3-{model.wrapper}"
        name = st.text_input("Name in the Model Registry", placeholder=usual, help="Adds a version.").strip() or usual
        description = st.text_area("Description", height=80)
        aliases = st.pills("Aliases", [CHAMPION, CHALLENGER], selection_mode="multi")
        if st.form_submit_button("Register", icon=":material/bookmark_add:", disabled=disabled):
            act = partial(
                registry.register, model.model_uri, name, resources.actor(), resources.settings(),
                description=description, aliases=tuple(aliases),
            )  # fmt: skip
            actions.attempt(act, f"Registered as {name}")
            st.rerun()


@st.dialog("Delete this logged model?")
def _confirm_delete(model: LoggedModel, registered: list[RegisteredModel]) -> None:
    gone = [f"**{words.size(model.size_bytes)}** of files" if model.size_bytes else "its files"]
    gone += [f"version **{literal(label)}**" for label in _version_labels(model, registered)]
    st.markdown(f"{theme.badge(model.wrapper)} {literal(words.model_label(model), inside=True)}")
    st.markdown("This permanently deletes:\n" + "\n".join(f"- {each}" for each in gone))
    turns = len(model_comparison.turns_of_model(resources.turns(), model.model_uri, registered))
    st.caption(f"Its worker stops. Its run and its {turns:,} logged turns are kept.")
    actions.confirm(partial(_delete, model), f"Deleted {model.model_uri}")


def _delete(model: LoggedModel) -> None:
    shared, actor = resources.kit(), resources.actor()
    shared.pool.unload(model.model_uri, actor)
    shared.servers.stop(model.model_uri, actor)
    registry.delete_model(model.model_uri, actor, shared.settings)


def _version_labels(model: LoggedModel, registered: list[RegisteredModel]) -> list[str]:
    """The versions that a logged model is registered as, each with its aliases."""
    versions = [version for each in registered for version in each.versions if version.logged_model == model.model_uri]
    return [" ".join([f"{each.name}/{each.version}", *(f"@{alias}" for alias in each.aliases)]) for each in versions]
