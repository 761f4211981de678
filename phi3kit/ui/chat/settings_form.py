"""Settings form: the settings of a chat: presets, system prompt, parameters; and a link that sets them.

Knows the widgets' keys. Does not know which values can be used.
"""

from dataclasses import replace
from functools import partial

import streamlit as st

from phi3kit.conversations import chat_settings
from phi3kit.conversations.chat_settings import ChatSettings
from phi3kit.conversations.presets import Presets
from phi3kit.core.records import SERVED
from phi3kit.endpoints.targets import Target
from phi3kit.ui.chat import open_conversation
from phi3kit.ui.shared import parameters, permissions, resources, shell, target_choice
from phi3kit.ui.shared.literal import literal

KEY = "chat"
_SYSTEM, _PRESET, _NAME = "system_prompt", "chat_preset", "chat_preset_name"
_LINKED = (*chat_settings.NAMES, "wrapper", "model", "preset")


def prepare() -> None:
    """Before any control is drawn: set them as a link, a preset or an opened conversation says."""
    _read_link()
    settings, wrapper, model_uri = st.session_state.pop("chat_apply", (None, None, ""))
    if settings is not None:
        _set(settings)
    targets = target_choice.available()
    if wrapper is not None and any(target.wrapper == wrapper for target in targets):
        st.session_state[f"{KEY}_wrapper"] = wrapper
        if any(target.model_uri == model_uri and target.wrapper == wrapper for target in targets):
            target_choice.set_target(KEY, wrapper, model_uri)


def choose_settings(target: Target) -> ChatSettings:
    """Everything that a message is sent with, set in a popover."""
    changed = len(_current().changed)
    label = f"Settings · {changed}" if changed else "Settings"
    with st.popover(label, icon=":material/tune:", key="chat_settings", help="Presets, system prompt, parameters"):
        presets = _presets()
        with shell.errors_shown():
            _choose_preset(presets)
        system_prompt = st.text_area(
            "System prompt",
            key=_SYSTEM,
            persist_state="session",
            placeholder="You are a helpful assistant.",
            help="The first message. It tells the model how to behave.",
        )
        settings = replace(parameters.parameter_widgets(KEY, target), system_prompt=system_prompt or "")
        _save_preset(presets)
    return settings


def _presets() -> Presets:
    settings = resources.settings()
    return Presets(settings.home, resources.actor().name)


def _choose_preset(presets: Presets) -> None:
    names = presets.names()
    if not names:
        return

    def use() -> None:
        if name := st.session_state.get(_PRESET):
            _use(presets, str(name))

    def delete() -> None:
        if name := st.session_state.get(_PRESET):
            presets.delete(str(name))
            st.session_state[_PRESET] = None

    if st.session_state.get(_PRESET) not in names:  # another tab may have deleted it
        st.session_state[_PRESET] = None
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox(
            "Preset", names, index=None, key=_PRESET, persist_state="session", placeholder="None",
            on_change=open_conversation.attempt, args=(use,),
            help="System prompt and parameters saved under a name.",
        )  # fmt: skip
        st.button(
            "", key="chat_preset_delete", icon=":material/delete:", help="Delete this preset",
            on_click=open_conversation.attempt, args=(delete,), disabled=not st.session_state.get(_PRESET),
        )  # fmt: skip


def _save_preset(presets: Presets) -> None:
    def save() -> None:
        resources.actor().require("keep")
        name = presets.save(str(st.session_state.get(_NAME) or ""), _current())
        st.session_state[_PRESET], st.session_state[_NAME] = name, ""
        st.toast(f"Saved as the preset {literal(name)}", icon=":material/check_circle:")

    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.text_input("Save as a preset", key=_NAME, placeholder="Name")
        on_click = partial(open_conversation.attempt, save)
        permissions.button("Save", "keep", key="chat_preset_save", icon=":material/bookmark_add:", on_click=on_click)


def _use(presets: Presets, name: str) -> bool:
    """Set the controls as a preset says; False when there is none of that name."""
    found = presets.load(name)
    if found is None:
        return False
    settings, problems = found
    for problem in problems:
        open_conversation.note(f"Preset {name}: {problem}")
    _set(settings)
    return True


def _set(settings: ChatSettings) -> None:
    for name, value in settings.to_json().items():
        key = _SYSTEM if name == "system_prompt" else f"{KEY}_{name}"
        st.session_state[key] = "\n".join(value) if name == "stop" else value


def _read_link() -> None:
    """Take what the address says, once; note which values cannot be used."""
    given = {name: st.query_params.get_all(name) for name in _LINKED if name in st.query_params}
    if not given or given == st.session_state.get("chat_link"):
        return
    st.session_state["chat_link"] = given
    last = {name: values[-1] for name, values in given.items()}
    if (preset := last.get("preset")) is not None:
        if _use(_presets(), preset):
            st.session_state[_PRESET] = preset
        else:
            open_conversation.note(f"The link's preset {preset[:60]!r} does not exist. It was ignored.")
    values = {name: given[name] if name == "stop" else last[name] for name in chat_settings.NAMES if name in given}
    settings, problems = chat_settings.read(values, _current())
    for problem in problems:
        open_conversation.note(f"The link's {problem}")
    wrapper, model_uri = last.get("wrapper"), last.get("model", "")
    if wrapper is not None and wrapper not in SERVED:
        open_conversation.note(
            f"The link's wrapper {wrapper[:60]!r} is not one of {', '.join(SERVED)}. It was ignored."
        )
        wrapper = None
    found = next((target for target in target_choice.available() if target.model_uri == model_uri), None)
    if model_uri and found is None:
        open_conversation.note(f"The link's model {model_uri[:80]!r} does not exist. The selected model was kept.")
    open_conversation.apply(settings, found.wrapper if found else wrapper, model_uri)


def _current() -> ChatSettings:
    """What the controls are set to, as far as they were drawn."""
    state = {
        name: st.session_state[f"{KEY}_{name}"]
        for name in chat_settings.NAMES
        if st.session_state.get(f"{KEY}_{name}") is not None
    }
    if "stop" in state:
        state["stop"] = [line for line in str(state["stop"]).splitlines() if line]
    return chat_settings.read({**state, "system_prompt": st.session_state.get(_SYSTEM) or ""})[0]


def show_link(settings: ChatSettings, target: Target) -> None:
    """The address that opens Chat with these settings, to be copied."""
    address = (st.context.url or "").partition("?")[0]
    try:
        url = chat_settings.link(address, settings, wrapper=target.wrapper, model=target.model_uri)
    except ValueError as error:
        st.caption(literal(str(error)))
        return
    st.code(url, language=None, wrap_lines=True)
