"""Turn drawer: a table of turns, and one of them in full: what was said, how long it took, where MLflow shows it.

Knows widgets. Does not know where a turn's text is kept.
"""

from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from phi3kit.conversations.transcripts import from_messages
from phi3kit.core.errors import Phi3KitError
from phi3kit.core.records import Message
from phi3kit.core.settings import INSTALLED
from phi3kit.ui.chat import open_conversation
from phi3kit.ui.prompt import editor
from phi3kit.ui.shared import elements, pages, resources, shell, theme, words
from phi3kit.ui.shared.literal import literal
from phi3kit.usage.details import TurnDetails, turn_details

_COLUMNS = ["at", "wrapper", "interface", "prompt_tokens", "completion_tokens", "total_tokens"]
_COLUMNS += ["time_to_first_token_s", "tokens_per_second", "finish_reason", "origin", "user"]
_MOST_ROWS = 1000  # that a browser is sent; files have all
_AVATARS = {"system": ":material/psychology:", "user": ":material/person:", "assistant": ":material/neurology:"}


def show_table(turns: pd.DataFrame, key: str, alt: str) -> None:
    """Turns, newest first; a click on a row opens it. alt: which turns they are."""
    shown = turns.head(_MOST_ROWS)
    chosen = elements.choose_row(
        shown[_COLUMNS],
        list(shown["run_id"]),
        key,
        f"{alt}, newest first",
        _columns(),
        height=min(38 + 35 * len(shown), 420),
        placeholder="–",
    )
    cut = len(turns) > len(shown)
    more = f" The newest {_MOST_ROWS:,} of {len(turns):,} are shown. Downloads include all." if cut else ""
    st.caption(f"Select a row to see the turn.{more}")
    if chosen:
        row = {str(name): value for name, value in shown[shown["run_id"] == chosen].iloc[0].items()}
        closed = partial(elements.forget_row, key)
        st.dialog("Turn", width="medium", position="right", on_dismiss=closed)(_show_turn)(row)


def _columns() -> dict[str, Any]:
    """The columns of `show_table`, as wide as what is in them."""
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    return {
        "at": st.column_config.DatetimeColumn(
            "time", format="D MMM, HH:mm:ss", timezone=words.timezone(), width=112, pinned=True
        ),
        "wrapper": text(width=96),
        "interface": text(width=66),
        "prompt_tokens": number("prompt", format="%,d", width=58),
        "completion_tokens": number("completion", format="%,d", width=82),
        "total_tokens": number("total", format="%,d", width=54),
        "time_to_first_token_s": number("first, s", format="%,.3f", width=62, help="Seconds to the first token."),
        "tokens_per_second": number("tokens/s", format="%,.0f", width=68),
        "finish_reason": text("finish", width=72),
        "origin": text(width=52),
        "user": text(width=60),
    }


def _show_turn(row: dict[str, Any]) -> None:
    colour = theme.WRAPPER_COLOURS.get(row["wrapper"], "gray")
    badge = f":{colour}-badge[{literal(str(row['wrapper']), inside=True)}]"
    st.markdown(f"{badge} {words.date(row['at'], '%B %Y, %H:%M:%S')} · {words.timezone()}")
    st.caption(_cost(row))
    details, error = _details(row)
    if error:
        shell.show_error(error)
    if details:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.link_button("Run in MLflow", details.run_url, icon=":material/open_in_new:")
            if details.trace_url:
                st.link_button("Trace in MLflow", details.trace_url, icon=":material/account_tree:")
            with shell.errors_shown():
                _show_way_back(row["conversation_id"], details)
        if resources.settings().own_store:
            program = "`mlflow ui` runs on this store" if INSTALLED else "`make mlflow-ui` runs"
            st.caption(f"MLflow's own pages open while {program}.")
        _show_text(details)
    with st.expander("Parameters and identifiers", icon=":material/tune:"):
        names = ["temperature", "max_tokens", "top_p", "seed", "interface", "origin", "user", "error_code", "model_uri"]
        names += ["conversation_id", "turn_id", "run_id"]
        values = [[name, "–" if pd.isna(row[name]) else _value(row[name])] for name in names]
        table = pd.DataFrame(values, columns=["name", "value"])
        st.dataframe(table, hide_index=True, alt="Parameters and identifiers of the turn")


def _show_way_back(conversation_id: Any, details: TurnDetails) -> None:
    """A way back to where the turn was made, or could have been: a saved conversation, or what its text says."""
    if isinstance(details.prompt, str):
        if st.button("Open in Prompt", icon=":material/data_object:", key="open_in_prompt"):
            editor.set_text(details.prompt)
            st.switch_page(pages.path("prompt"))
    elif isinstance(conversation_id, str) and open_conversation.store().open(conversation_id):
        pages.link("chat", "Open in Chat", {open_conversation.PARAMETER: conversation_id})
    elif details.prompt and st.button(
        "Open in Chat", icon=":material/forum:", key="open_in_chat",
        help="It was not made in Chat, or was deleted there. A new conversation is created from the logged text.",
    ):  # fmt: skip
        conversation, _ = from_messages(details.messages)
        open_conversation.open_here(conversation)
        st.switch_page(pages.path("chat"))


def _details(row: dict[str, Any]) -> tuple[TurnDetails | None, Phi3KitError | None]:
    turn_id = row["turn_id"] if isinstance(row["turn_id"], str) else None
    try:
        return turn_details(resources.actor(), resources.settings(), row["run_id"], turn_id), None
    except Phi3KitError as error:
        return None, error


def _show_text(details: TurnDetails) -> None:
    if details.prompt is None:
        st.info("This turn's text was not logged, only its cost.", icon=":material/visibility_off:")
        return
    if isinstance(details.prompt, str):
        st.caption("Raw prompt")
        st.code(details.prompt, language=None, wrap_lines=True)
    else:
        for message in details.prompt:
            _show_message(message)
    for number, completion in enumerate(details.completions, start=1):
        if len(details.completions) > 1:
            st.caption(f"Answer {number} of {len(details.completions)}")
        _show_message(Message("assistant", completion or "(no text)"))


def _show_message(message: Message) -> None:
    with st.chat_message(message.role, avatar=_AVATARS[message.role]):
        st.text(message.content)


def _cost(row: dict[str, Any]) -> str:
    prompt, completion, cached = (int(row[f"{part}_tokens"]) for part in ("prompt", "completion", "cached_prompt"))
    parts = [f"{prompt:,} + {completion:,} = {prompt + completion:,} tokens"]
    if not row["tokens_counted"]:
        parts = ["no token counts from the endpoint"]
    if cached:
        parts.append(f"{cached:,} prompt tokens cached")
    if pd.notna(row["time_to_first_token_s"]):
        parts.append(f"first token {words.seconds(row['time_to_first_token_s'])}")
    if pd.notna(row["tokens_per_second"]):
        parts.append(f"{row['tokens_per_second']:,.0f} tokens/s")
    if pd.notna(row["duration_s"]):
        parts.append(f"{words.seconds(row['duration_s'])} total")
    reason, code = row["finish_reason"], row["error_code"]
    parts.append(f"{reason}: {code}" if isinstance(code, str) else str(reason))
    return " · ".join(literal(part) for part in parts)


def _value(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
