"""Token view: a prompt's tokens as chips or as a table, and how much of the context they fill.

Knows colours and widgets. Does not know how a text is cut into tokens.
"""

from collections.abc import Iterator, Sequence

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from phi3kit.formats.tokens import PHI3_4K_CONTEXT, PHI3_4K_WINDOW, Token, Tokenized, swallowed
from phi3kit.ui.shared import theme
from phi3kit.ui.shared.literal import literal

_DRAWN_TOKENS = 300  # more chips make a browser slow; a click draws the rest
_SCROLLED_TOKENS = 120  # more of them scroll inside their card
_MARKS = str.maketrans({" ": "\N{OPEN BOX}", "\n": "↵", "\t": "→", "\r": "␍"})
LEGEND = (
    "Text and id of each. :yellow-badge[special] structure · :gray-badge[text] a piece of text · :blue-badge[0xF0] one byte of a character "
    "that is not in the vocabulary · :gray[~~↵~~] white space removed by the special token before it"
)


def show_tokens(tokenized: Tokenized | None, prompt: str, key: str) -> None:
    """Each token with its text and id; the first few hundred, and the rest at a click. None: a remote endpoint's."""
    if tokenized is None:
        st.caption("A remote endpoint does not show its tokens. Choose a logged model to see them.")
        return
    if not tokenized.tokens:
        st.caption("The tokens of your prompt appear here, as the model will read them.")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        kinds = [token.kind for token in tokenized.tokens]
        names = {"special": "special", "byte": "bytes"}
        counts = [f"{kinds.count(kind)} {name}" for kind, name in names.items() if kind in kinds]
        st.caption(" · ".join([f"{tokenized.count:,} tokens", *counts]), width="content")
        table = st.toggle("Show as table", key=f"{key}_table")
    if table:
        st.dataframe(
            _table(tokenized.tokens), hide_index=True, height=360, key=f"{key}_rows", alt="The prompt's tokens"
        )
        return
    shown: Sequence[Token] = tokenized.tokens
    if tokenized.count > _DRAWN_TOKENS and not st.checkbox(
        f"Show all {tokenized.count:,}", key=f"{key}_all", help=f"Otherwise only the first {_DRAWN_TOKENS} are shown."
    ):
        shown = tokenized.tokens[:_DRAWN_TOKENS]
    with st.container(height=420 if len(shown) > _SCROLLED_TOKENS else "content", border=False):
        st.markdown(chips(shown, prompt))
    if len(shown) < tokenized.count:
        st.caption(f"{tokenized.count - len(shown):,} more tokens not shown.")
    st.markdown(f":small[{LEGEND}]")  # a caption takes contrast from badges


def chips(tokens: Sequence[Token], prompt: str) -> str:
    """The tokens as Markdown; bytes that make a character are followed by it."""
    return " ".join(_chips(tokens, prompt))


def _chips(tokens: Sequence[Token], prompt: str) -> Iterator[str]:
    pending: list[int] = []  # bytes whose character is not whole yet
    for index, token in enumerate(tokens):
        if token.kind == "byte":
            pending += token.bytes
            yield f":blue-badge[0x{token.bytes[0]:02X} :small[\\#{token.id}]]"
            whole = index + 1 == len(tokens) or tokens[index + 1].kind != "byte"
            if whole:
                yield f":gray[\\= {literal(bytes(pending).decode(errors='replace').translate(_MARKS))}]"
                pending = []
            continue
        text = literal(token.text.translate(_MARKS)) or "&nbsp;"
        colour = "yellow" if token.kind == "special" else "gray"
        yield f":{colour}-badge[{text} :small[\\#{token.id}]]"
        if taken := swallowed(token, prompt):
            yield f":gray[~~{literal(taken.translate(_MARKS))}~~]"


def show_meter(tokenized: Tokenized, max_tokens: int, key: str) -> bool:
    """Prompt and answer against the model's window and limit, as text and as a bar; whether there is room to answer."""
    count, limit = tokenized.count, tokenized.context_tokens
    fits = count < limit
    room = f"{limit - count:,} left for the answer" if fits else "too long. Shorten it to send it"
    st.markdown(f"{count:,} of {limit:,} tokens · {room}")
    alt = f"{count:,} of {limit:,} tokens of context"
    st.plotly_chart(
        _meter(tokenized, max_tokens), key=key, alt=alt, config={"displayModeBar": False, "staticPlot": True}
    )
    window = tokenized.window_tokens
    line = f"Striped bar: the answer, up to {_answer_tokens(tokenized, max_tokens):,} tokens. "
    if window is not None and count > window:
        line += f":yellow[:material/warning:] Beyond its window of {window:,} tokens the model forgets the beginning."
    elif window is None and limit == PHI3_4K_CONTEXT:
        line += f"This export has no window: beyond {PHI3_4K_WINDOW:,} tokens its answers may be noise. Build it again."
    st.caption(line)
    return fits


def _answer_tokens(tokenized: Tokenized, max_tokens: int) -> int:
    return max(min(max_tokens, tokenized.context_tokens - tokenized.count), 0)


def _meter(tokenized: Tokenized, max_tokens: int) -> go.Figure:
    colours = theme.palette()
    limit = tokenized.context_tokens
    answer = _answer_tokens(tokenized, max_tokens)
    figure = go.Figure()
    # Hatched: the answer may have so many.
    for tokens, colour, shape in ((tokenized.count, colours.prompt, ""), (answer, colours.completion, "/")):
        marker = {"color": colour, "pattern": {"shape": shape, "fillmode": "replace", "solidity": 0.5}}
        figure.add_bar(x=[tokens], y=[""], orientation="h", marker=marker, width=0.5)
    # An export of an earlier phi3kit has no window. Phi-3's is marked all the same: beyond it such an export answers noise.
    window = tokenized.window_tokens or (PHI3_4K_WINDOW if limit == PHI3_4K_CONTEXT else limit)
    words = {0: "0", window: f"sliding window {window:,}", limit: f"context {limit:,}"}
    for mark, line in ((window, "dot"), (limit, "solid")):
        figure.add_vline(x=mark, line={"color": colours.text, "width": 1, "dash": line})
    figure.update_layout(
        barmode="stack", height=58, showlegend=False, margin={"l": 4, "r": 4, "t": 0, "b": 22},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", font={"color": colours.text, "size": 12},
        xaxis={
            "range": [0, max(limit, tokenized.count) * 1.002], "tickvals": list(words), "ticktext": list(words.values()),
            "showgrid": False, "zeroline": False, "ticklabelposition": "outside left", "automargin": False,
        },
        yaxis={"visible": False},
    )  # fmt: skip
    return figure


def _table(tokens: Sequence[Token]) -> pd.DataFrame:
    rows = [
        (position, token.id, token.text.translate(_MARKS), bytes(token.bytes).hex(" ").upper(), token.kind)
        for position, token in enumerate(tokens)
    ]
    return pd.DataFrame(rows, columns=["position", "id", "text", "bytes (hex)", "kind"])
