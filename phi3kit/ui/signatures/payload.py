"""Payload: a payload, what each model's server makes of it, and one question in every form a model takes.

Knows widgets. Does not know how a payload is judged, converted or written as code.
"""

import shlex
from collections.abc import Iterator

import streamlit as st

from phi3kit.endpoints import targets
from phi3kit.endpoints.invocations import ScoringResponse, score
from phi3kit.formats import payloads
from phi3kit.formats.enforcement import Enforced, Refusal, enforce
from phi3kit.formats.payloads import EXAMPLES
from phi3kit.ui.shared import elements, live_text, permissions, resources, shell, words
from phi3kit.ui.shared.literal import literal
from phi3kit.ui.signatures.sides import Side

_SHOWN_CHARACTERS = 4_000  # of a message or an answer
_SERVE_URL = "http://127.0.0.1:8000"  # where `phi3kit serve` and the snippets meet
_KEY = "lab_payload"


def show_payload(a: Side, b: Side) -> None:
    """A payload box, and what each model's server would say to it."""
    examples = {example.name: example for example in EXAMPLES}
    st.session_state.setdefault(_KEY, EXAMPLES[0].payload)

    def take_example() -> None:
        if example := examples.get(st.session_state.get("lab_example") or ""):
            _set_text(example.payload)

    left, right = st.columns([2, 3])
    with left, st.container(border=True):
        st.selectbox(
            "Example",
            list(examples),
            index=None,
            placeholder="Choose an example",
            key="lab_example",
            on_change=take_example,
            format_func=lambda name: f"{name}: {examples[name].shows}",
        )
        text = live_text.text_area("Payload", key=_KEY, height=300, placeholder=EXAMPLES[0].payload)
        with st.container(horizontal=True):
            for wants, label in (("messages", "Convert to messages"), ("prompt", "Convert to prompt")):
                changed = payloads.converted(text, wants)
                if changed and changed != text:
                    st.button(
                        label, key=f"lab_as_{wants}", icon=":material/swap_horiz:", on_click=_convert, args=(wants,),
                        help="Rewrite the same question in the other wrapper's format.",
                    )  # fmt: skip
        st.caption(
            f"{len(text):,} characters. Checked by MLflow's server code against the signature. No model is loaded."
        )
    with right:
        for side in (a, b):
            with st.container(border=True):
                _show_verdict(side, text)


def _set_text(text: str) -> None:
    st.session_state[_KEY] = text


def _convert(wants: str) -> None:
    """The text as it is now, which may be newer than what the page was drawn with."""
    text = st.session_state.get(_KEY) or ""
    _set_text(payloads.converted(text, wants) or text)


def _show_verdict(side: Side, text: str) -> None:
    enforced = enforce(side.signature, text)
    if refusal := enforced.refusal:
        st.markdown(f"{side.heading} :red[:material/cancel:] **Refused**")
        st.markdown(literal(refusal.reason))
        st.markdown(f"**Change:** {literal(refusal.change)}")
        _show_message(refusal)
    else:
        st.markdown(f"{side.heading} :material/check_circle: **Passes the schema**")
        for note in _notes(enforced, text):
            st.caption(f":material/info: {literal(note)}")
    if rows := enforced.rows:
        answer = "a bare list" if enforced.form == "bare" else "{“predictions”: [ … ]}"
        with st.expander(f"What reaches predict: {words.counted(len(rows), 'row')}", key=f"lab_rows_{side.letter}"):
            pretty = words.shortened(payloads.pretty(list(rows)), _SHOWN_CHARACTERS)
            elements.scrolled_code(pretty, 200, "json")
            st.caption(f"An answer is {answer}.")
    _show_sending(side, text)


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
        yield "Only the model can tell what predict does with it. Send it to find out."


def _show_message(refusal: Refusal) -> None:
    if refusal.message.endswith("^"):  # broken JSON: the place in its line, which must not be wrapped
        st.code(refusal.message, language=None)
        return
    with st.expander("Full server message"):
        st.code(words.shortened(refusal.message, _SHOWN_CHARACTERS), language=None, wrap_lines=True)


def _show_sending(side: Side, text: str) -> None:
    """The same payload to a real worker; its answer stays until another one is sent."""
    uri = side.choice.model.model_uri
    responses: dict[tuple[str, str], ScoringResponse] = st.session_state.setdefault("lab_responses", {})
    if permissions.button(
        "Send it to the model",
        "invoke",
        key=f"lab_ask_{side.letter}",
        type="tertiary",
        icon=":material/play_arrow:",
        help="Starts the model's worker if it is not loaded, and posts the payload to its /invocations.",
    ):
        with (
            shell.errors_shown(),
            st.spinner("Loading the model and MLflow in its worker; the first time takes a few seconds"),
        ):
            endpoint = resources.endpoint(targets.of_model(side.choice.model, ""))
            responses.clear()
            responses[uri, text] = score(endpoint, text, resources.actor())
    if response := responses.get((uri, text)):
        st.caption(f"/invocations answered {response.status}:")
        body = words.shortened(response.text, _SHOWN_CHARACTERS)
        st.code(body, language="json" if response.is_json else None, wrap_lines=True)


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
            command = shlex.join(["python", "-m", "phi3kit", "serve", side.choice.plain_uri])
            st.code(command, language=None, wrap_lines=True)
