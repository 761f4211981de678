"""A Streamlit app for the browser test: hostile texts drawn as themselves, as a diff, and as tokens."""

import itertools

import streamlit as st
from tokenizers import Tokenizer

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.formats.safe_markdown import for_pages
from phi3kit.formats.tokens import Tokenized
from phi3kit.ui.prompt.token_view import show_tokens
from phi3kit.ui.shared.literal import literal
from phi3kit.ui.shared.text_diff import show_diff
from phi3kit.worker.tokenization import raw_tokens
from tests.support.hostile import ANSWERS, HOSTILE

for number, text in enumerate(HOSTILE):
    with st.container(key=f"alone_{number}"):
        st.markdown(literal(text))
    with st.container(key=f"inside_{number}"):
        st.markdown(f":red-background[{literal(text)}] :gray-badge[{literal(text)}]")
for number, answer in enumerate(ANSWERS):
    with st.container(key=f"answer_{number}"):
        st.markdown(for_pages(answer))
for number, (before, after) in enumerate(itertools.pairwise(HOSTILE)):
    with st.container(key=f"diff_{number}"):
        show_diff(before, after, key=f"diff_{number}")
with st.container(key="tokens"):
    prompt = "word <b>é</b> 🙂 " * 400
    tokens = raw_tokens(Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json")), prompt)[:4096]
    show_tokens(Tokenized(tuple(tokens), len(tokens), 4096, 2047), prompt, "tokens")
st.text("all drawn")
