"""Connections dialog: connections to remote endpoints are added, tested, changed and removed here.

Knows widgets. Knows neither which connections are valid nor how an endpoint is tested.
"""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from phi3kit.core.errors import Phi3KitError
from phi3kit.core.records import EndpointProtocol, Interface
from phi3kit.endpoints.connections import (
    KEY_PREFIX,
    Connection,
    key_names,
    list_connections,
    remove_connection,
    save_connection,
)
from phi3kit.endpoints.probe import Probe, probe
from phi3kit.ui.shared import elements, permissions, resources, shell, theme
from phi3kit.ui.shared.literal import literal

_NEW = "New connection"
_PROTOCOLS: dict[EndpointProtocol, str] = {"openai": "OpenAI", "invocations": "MLflow /invocations"}
_TAKES: dict[Interface, str] = {"openai": "messages", "raw": "prompt"}
_TESTED = "connection_tested"
_SILENCE_S = 120


def connections_button(key: str) -> None:
    """The button that opens the dialog."""
    what = "Remote endpoints to talk to: vLLM, Ollama, another phi3kit, mlflow models serve."
    if permissions.button(
        "Connections", "connect", icon=":material/lan:", type="tertiary", key=f"{key}_connections", help=what
    ):
        st.session_state.pop(_TESTED, None)
        _dialog()


@st.dialog("Connections", width="medium", icon=":material/lan:", on_dismiss="rerun")
def _dialog() -> None:
    edit_connections()


def edit_connections() -> None:
    """The dialog's content: one connection's fields, Test, Save and Remove. Saving and removing rerun the page."""
    with shell.errors_shown():
        settings, keys = resources.settings(), resources.secrets()
        kept = {each.name: each for each in list_connections(settings.home)}
        chosen = st.selectbox("Connection", [_NEW, *kept], key="connection_chosen") if kept else _NEW
        connection = kept.get(chosen)
        key = f"connection_{chosen}" if connection else "connection"
        values = _address_fields(connection, key, key_names(keys))
        details = st.container(horizontal=True)
        with st.container(horizontal=True):
            save = st.button(theme.on_primary("Save"), type="primary", icon=":material/save:", key="connection_save")
            test = st.button("Test", icon=":material/network_check:", key="connection_test")
            remove = connection and st.button("Remove", icon=":material/delete:", key="connection_remove")
        if remove:
            remove_connection(chosen, resources.actor(), settings)
            st.rerun()
        if test:
            with st.spinner(f"Testing {values['url'] or 'the endpoint'}"):
                found = _test(values, key, keys)
            st.session_state[_TESTED] = (_address(values), found)
            if isinstance(found, Probe):
                _fill(found, key)
        with details:  # after the test, which fills them
            values |= _detail_fields(connection, key, values)
        if save:
            save_connection(Connection(**values), resources.actor(), settings)
            if connection and chosen != values["name"]:
                remove_connection(chosen, resources.actor(), settings)
            st.rerun()
        _show_test(_tested(values))


def _address_fields(kept: Connection | None, key: str, names: Sequence[str]) -> dict[str, Any]:
    """Name, protocol, URL and key, as Connection's arguments."""
    with st.container(horizontal=True):
        name = st.text_input("Name", kept.name if kept else "", key=f"{key}_name", max_chars=40, placeholder="lab")
        protocol = elements.choose_one(
            "Protocol", _PROTOCOLS, f"{key}_protocol", default=kept.protocol if kept else "openai",
            format_func=_PROTOCOLS.__getitem__, persist_state=None,
            help="OpenAI streams. MLflow's /invocations returns the whole answer at once.",
        )  # fmt: skip
    url = st.text_input(
        "URL", kept.url if kept else "", key=f"{key}_url", placeholder="http://127.0.0.1:8000",
        help="The server's root, or the base_url for OpenAI's own client. Redirects are not followed.",
    )  # fmt: skip
    options = ["", *sorted({*names, *([kept.key_name] if kept and kept.key_name else [])})]
    key_name = st.selectbox(
        "Key",
        options,
        index=options.index(kept.key_name) if kept else 0,
        format_func=lambda each: each or "none",
        key=f"{key}_key",
        help=f"The name of a secret or environment variable that begins with {KEY_PREFIX}. The key itself is not stored.",
    )
    return {"name": name or "", "url": (url or "").strip(), "protocol": protocol, "key_name": key_name}


def _detail_fields(kept: Connection | None, key: str, address: dict[str, Any]) -> dict[str, Any]:
    """What a test can fill in, and how long to wait, as Connection's arguments."""
    values: dict[str, Any] = {}
    if address["protocol"] == "openai":
        values["model"] = _model(kept, key, _tested(address))
    else:
        values["takes"] = elements.choose_one(
            "Input", _TAKES, f"{key}_takes", default=kept.takes if kept else "openai",
            format_func=_TAKES.__getitem__, persist_state=None, help="Test detects it by asking a short question.",
        )  # fmt: skip
    values["context_tokens"] = st.number_input(
        "Context", 1, 2**24, kept.context_tokens if kept else None, key=f"{key}_context", placeholder="unknown",
        width=150, help="Most tokens of prompt and answer together.",
    )  # fmt: skip
    values["silence_s"] = st.number_input(
        "Time limit (seconds)", 1, 3600, kept.silence_s if kept else _SILENCE_S, key=f"{key}_silence", width=150,
        help="An answer fails after this many seconds without data.",
    )  # fmt: skip
    return values


def _model(kept: Connection | None, key: str, tested: Probe | Phi3KitError | None) -> str:
    models = list(tested.models) if isinstance(tested, Probe) else []
    written = [st.session_state.get(f"{key}_model"), kept.model if kept else None]
    models += [each for each in written if each and each not in models]
    return (
        st.selectbox(
            "Model",
            models,
            index=models.index(kept.model) if kept and kept.model in models else None,
            accept_new_options=True,
            key=f"{key}_model",
            placeholder="Test lists them, or enter a name",
        )
        or ""
    )


def _fill(found: Probe, key: str) -> None:
    """Put what a test found into the fields that are empty."""
    if found.models and st.session_state.get(f"{key}_model") not in found.models:
        st.session_state[f"{key}_model"] = found.models[0]
    if found.context_tokens and not st.session_state.get(f"{key}_context"):
        st.session_state[f"{key}_context"] = found.context_tokens
    if st.session_state.get(f"{key}_protocol") == "invocations":
        st.session_state[f"{key}_takes"] = found.takes


def _test(address: dict[str, Any], key: str, keys: dict[str, object]) -> Probe | Phi3KitError:
    details = {
        "name": address["name"] or "new",
        "model": st.session_state.get(f"{key}_model") or "",
        "silence_s": st.session_state.get(f"{key}_silence") or _SILENCE_S,
    }
    try:
        return probe(Connection(**address | details), keys, resources.actor(), resources.settings())
    except Phi3KitError as error:
        return error


def _address(values: dict[str, Any]) -> tuple[str, ...]:
    """The fields that a test's result depends on."""
    return values["url"], values["protocol"], values["key_name"]


def _tested(values: dict[str, Any]) -> Probe | Phi3KitError | None:
    """The last test's result, as long as the fields are those that were tested."""
    address, found = st.session_state.get(_TESTED, (None, None))
    return found if address == _address(values) else None


def _show_test(tested: Probe | Phi3KitError | None) -> None:
    if isinstance(tested, Phi3KitError):
        shell.show_error(tested)
    elif tested:
        st.success(literal(tested.says), icon=":material/check:")
        for model in tested.models[:20]:
            st.caption(literal(model))
