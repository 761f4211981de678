"""Signature lab: two models chosen, their fields side by side, a payload and what becomes of it, one question in all forms.

Knows widgets. Judges neither signatures nor payloads.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import streamlit as st
from mlflow.models import ModelSignature

from phi3kit.core.records import WrapperName
from phi3kit.endpoints import targets
from phi3kit.endpoints.invocations import ScoringResponse, score
from phi3kit.formats import payloads
from phi3kit.formats.enforcement import Enforced, Refusal, enforce
from phi3kit.formats.payloads import EXAMPLES
from phi3kit.formats.signatures import ComparedField, chapter_signature, compare, describe
from phi3kit.tracking.registry import ModelChoice
from phi3kit.ui.shared import live_text, permissions, resources, shell, theme
from phi3kit.ui.shared.literal import literal

MEANING: dict[WrapperName, str] = {
    "transformers": "OpenAI's chat interface: a list of messages in, choices and usage out. MLflow gives it to every "
    "model that is logged with the task llm/v1/chat.",
    "onnx": "One text in, one text out: MLflow inferred it from the example {“prompt”: …} and the answer “Run”.",
}
_NOTATION_HEIGHT = 230  # pixels; a longer one scrolls, so that the two stand beside each other
_SHOWN_CHARACTERS = 4_000  # of a message or an answer
_SERVE_URL = "http://127.0.0.1:8000"  # where `phi3kit serve` and the snippets meet
_PAYLOAD = "lab_payload"


@dataclass(frozen=True)
class Side:
    """One of the two models."""

    letter: str
    choice: ModelChoice
    signature: ModelSignature

    @property
    def wrapper(self) -> WrapperName:
        """Which wrapper it is."""
        return self.choice.model.wrapper

    @property
    def heading(self) -> str:
        """Its letter and badge as Markdown."""
        return f"**{self.letter}** {theme.badge(self.wrapper)}"


def choose_sides() -> tuple[Side, Side] | None:
    """Two models, chosen in one row; None (and an empty state) when none is built."""
    found = resources.choices()
    if not found:
        shell.empty_state(
            "Two signatures would stand here. Not built yet: transformers and onnx.",
            "build",
            "Build the wrappers",
            ":material/deployed_code:",
        )
        return None
    by_uri = {choice.model_uri: choice for choice in found}
    newest = [choice for choice in found if choice.model_uri == choice.model.model_uri]  # without names and aliases
    first = next((each for each in newest if each.model.wrapper == "transformers"), newest[0])
    second = next((each for each in newest if each.model.wrapper == "onnx"), newest[-1])
    sides = []
    with st.container(horizontal=True):
        for letter, default in (("A", first), ("B", second)):
            uri = st.selectbox(
                letter,
                list(by_uri),
                index=list(by_uri).index(default.model_uri),
                format_func=lambda each: _label(by_uri[each]),
                key=f"sig_{letter}",
                width=380,
                help="Registered versions by alias and number, then every logged model, newest first.",
            )
            choice = by_uri[uri or default.model_uri]
            sides.append(Side(letter, choice, resources.signature(choice.model.model_uri)))
    if first.model.wrapper == second.model.wrapper:
        missing = "onnx" if first.model.wrapper == "transformers" else "transformers"
        st.caption(f"The {missing} wrapper is not built yet: Build makes it.")
    return sides[0], sides[1]


def show_fields(a: Side, b: Side) -> None:
    """Both in the chapter's notation, and field by field."""
    for column, side in zip(st.columns(2), (a, b), strict=True):
        with column, st.container(border=True, height="stretch"):
            st.markdown(side.heading)
            st.caption(MEANING[side.wrapper])
            st.code(describe(side.signature).notation, language=None, wrap_lines=True, height=_NOTATION_HEIGHT)
    with st.container(border=True):
        rows = compare(a.signature, b.signature)
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown("**Field by field**", width="content")
            only = st.toggle("Only what differs", key="sig_differences")
        _table(rows, ("A", "B"), only)
        without = [side.letter for side in (a, b) if side.signature.params is None]
        if without:
            st.caption(f"params: None in {' and '.join(without)}, as in the chapter.")


def show_since_chapter(a: Side, b: Side) -> None:
    """What the chapter printed in 2024 beside what MLflow gives today."""
    wrappers = list(dict.fromkeys((a.wrapper, b.wrapper)))
    wrapper = st.segmented_control(
        "Wrapper", wrappers, default=wrappers[0], required=True, key="sig_chapter", label_visibility="collapsed"
    )
    side = a if wrapper == a.wrapper else b
    chapter = chapter_signature(side.wrapper)
    rows = compare(chapter, side.signature)
    for column, (title, each) in zip(
        st.columns(2), (("The chapter, 2024", chapter), (f"{side.letter}, today", side.signature)), strict=True
    ):
        with column, st.container(border=True, height="stretch"):
            st.markdown(f"**{title}** {theme.badge(side.wrapper)}")
            st.code(describe(each).notation, language=None, wrap_lines=True, height=_NOTATION_HEIGHT)
    with st.container(border=True):
        st.markdown("**What changed**")
        st.markdown(_changes(rows))
        _table(rows, ("chapter", "today"), only_differences=any(row.verdict != "same" for row in rows))


def show_payload(a: Side, b: Side) -> None:
    """A payload box, and what each model's server would say to it."""
    names = {example.name: example for example in EXAMPLES}
    st.session_state.setdefault(_PAYLOAD, EXAMPLES[0].payload)
    left, right = st.columns([2, 3])
    with left, st.container(border=True):
        st.selectbox(
            "Example",
            list(names),
            index=None,
            placeholder="Take an example",
            key="lab_example",
            on_change=_take_example,
            format_func=lambda name: f"{name}: {names[name].shows}",
        )
        text = live_text.text_area("Payload", key=_PAYLOAD, height=300, placeholder=EXAMPLES[0].payload)
        with st.container(horizontal=True):
            for wants, label in (("messages", "As messages"), ("prompt", "As prompt")):
                changed = payloads.converted(text, wants)
                if changed and changed != text:
                    st.button(
                        label, key=f"lab_as_{wants}", icon=":material/swap_horiz:", on_click=_set_payload, args=(changed,),
                        help="Write the same question in the other wrapper's form.",
                    )  # fmt: skip
        st.caption(
            f"{len(text):,} characters. MLflow's own server code judges it on the signature; no model is loaded."
        )
    with right:
        for side in (a, b):
            with st.container(border=True):
                _verdict(side, text)


def show_forms(a: Side, b: Side) -> None:
    """One question as each model takes it."""
    question = st.text_input("Question", payloads.QUESTION, key="lab_question", persist_state="session")
    for column, side in zip(st.columns(2), (a, b), strict=True):
        with column, st.container(border=True):
            st.markdown(side.heading)
            forms = payloads.renderings(question, side.wrapper, side.choice.model_uri, _SERVE_URL)
            for name, (text, language) in forms.items():
                st.caption(literal(name))
                st.code(text, language=language, wrap_lines=True)
            st.caption("For curl, serve the model first:")
            st.code(f"python -m phi3kit serve {side.choice.model_uri}", language="bash", wrap_lines=True)


def _label(choice: ModelChoice) -> str:
    model = f"{choice.model.wrapper} · {shell.model_label(choice.model)}"
    return f"{choice.label} · {model}" if choice.label else model


def _take_example() -> None:
    chosen = next((each for each in EXAMPLES if each.name == st.session_state.get("lab_example")), None)
    if chosen:
        _set_payload(chosen.payload)


def _set_payload(text: str) -> None:
    st.session_state[_PAYLOAD] = text


def _verdict(side: Side, text: str) -> None:
    enforced = enforce(side.signature, text)
    if refusal := enforced.refusal:
        st.markdown(f"{side.heading} :red[:material/cancel:] **Refused**")
        st.markdown(literal(refusal.reason))
        st.markdown(f"**Change:** {literal(refusal.change)}")
        _message(refusal)
    else:
        st.markdown(f"{side.heading} :material/check_circle: **Passes the schema**")
        for note in _notes(enforced, text):
            st.caption(f":material/info: {literal(note)}")
    if enforced.rows:
        rows = len(enforced.rows)
        answer = "a bare list" if enforced.form == "bare" else "{“predictions”: [ … ]}"
        with st.expander(
            f"What reaches predict: {rows:,} {'row' if rows == 1 else 'rows'}", key=f"lab_rows_{side.letter}"
        ):
            st.code(_cut(payloads.pretty(list(enforced.rows))), language="json", wrap_lines=True, height=200)
            st.caption(f"An answer is {answer}.")
    _ask_really(side, text)


def _notes(enforced: Enforced, text: str) -> Iterator[str]:
    """What happens to an accepted payload without a word from MLflow, as far as it is known without the model."""
    if enforced.dropped:
        yield f"{', '.join(enforced.dropped)}: not in the signature, so MLflow drops it without an error."
    if enforced.ignored_params:
        yield f"params {', '.join(enforced.ignored_params)}: the signature has no such params, so they are ignored."
    example = next((each for each in EXAMPLES if each.payload == text), None)
    if example and example.predict:
        yield f"predict: {example.predict}"
    else:
        yield "What predict makes of it, only the model can say: send it."


def _message(refusal: Refusal) -> None:
    if refusal.message.endswith("^"):  # broken JSON: the place in its line, which must not be wrapped
        st.code(refusal.message, language=None)
        return
    with st.expander("The server's message, whole"):
        st.code(_cut(refusal.message), language=None, wrap_lines=True)


def _ask_really(side: Side, text: str) -> None:
    """The same payload to a real worker; its answer stays until the payload changes."""
    uri = side.choice.model.model_uri
    responses: dict[tuple[str, str], ScoringResponse] = st.session_state.setdefault("lab_responses", {})
    if st.button(
        "Send it to the model",
        key=f"lab_ask_{side.letter}",
        type="tertiary",
        icon=":material/play_arrow:",
        disabled=not permissions.may("invoke"),
        help="Starts the model's worker when it is not loaded, and posts the payload to its /invocations.",
    ):
        with (
            shell.errors_shown(),
            st.spinner("Loading the model and MLflow in its worker; the first time takes seconds"),
        ):
            endpoint = resources.endpoint(targets.of_model(side.choice.model, ""))
            responses.clear()
            responses[uri, text] = score(endpoint, text, resources.actor())
    if response := responses.get((uri, text)):
        st.caption(f"/invocations answered {response.status}:")
        st.code(_cut(response.text), language="json" if response.is_json else None, wrap_lines=True)


def _table(rows: list[ComparedField], names: tuple[str, str], only_differences: bool) -> None:
    words = {"same": "same", "differs": "differs", "only A": f"only {names[0]}", "only B": f"only {names[1]}"}
    counts = [(sum(row.verdict == verdict for row in rows), word) for verdict, word in words.items()]
    st.caption(" · ".join(f"{count} {word.replace('differs', 'differ')}" for count, word in counts if count))
    table = pd.DataFrame(
        [
            (row.part, row.name, row.type, row.required, row.a is not None, row.b is not None, words[row.verdict])
            for row in rows
            if not only_differences or row.verdict != "same"
        ],
        columns=["part", "field", "type", "required", f"in {names[0]}", f"in {names[1]}", "verdict"],
    )
    if table.empty:
        st.markdown("No field differs.")
        return
    st.dataframe(table, hide_index=True, height=min(36 * (len(table) + 1), 480))


def _changes(rows: list[ComparedField]) -> str:
    """In words: what is new, what is gone, what is no longer required, what changed otherwise."""
    new = [row.name for row in rows if row.verdict == "only B" and not _inside_new(row, rows)]
    gone = [row.name for row in rows if row.verdict == "only A"]
    freed = [row.name for row in rows if row.a and row.b and row.a.required and not row.b.required]
    other = [row.name for row in rows if row.verdict == "differs" and row.name not in freed]
    parts = (("Added", new), ("No longer required", freed), ("Changed", other), ("Gone", gone))
    lines = [f"- {title}: {literal(', '.join(names))}" for title, names in parts if names]
    return "\n".join(lines) or "Nothing: MLflow infers today what the chapter printed."


def _inside_new(row: ComparedField, rows: list[ComparedField]) -> bool:
    """Whether a field belongs to one that is new itself."""
    return any(
        other.verdict == "only B"
        and other.part == row.part
        and row.name.startswith((f"{other.name}.", f"{other.name}[", f"{other.name}{{"))
        for other in rows
    )


def _cut(text: str) -> str:
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return f"{text[:_SHOWN_CHARACTERS]}\n… and {len(text) - _SHOWN_CHARACTERS:,} characters more"
