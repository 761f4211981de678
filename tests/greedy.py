"""Greedy writing straight from a runtime: what an engine's answers are compared with."""

from phi3kit.server.runtime import Logits, Runtime, TokenSequence


def appended(sequence: TokenSequence, ids: list[int], slice_tokens: int = 4096) -> Logits:
    """The scores behind all of `ids`, so many tokens at a time."""
    for begin in range(0, len(ids), slice_tokens):
        logits = sequence.append(ids[begin : begin + slice_tokens])
    return logits


def greedy(
    runtime: Runtime, sequence: TokenSequence, prompt: list[int], max_tokens: int = 60, slice_tokens: int = 4096
) -> str:
    """What the model says greedily behind a prompt."""
    logits = appended(sequence, prompt, slice_tokens)
    written: list[int] = []
    while len(written) < max_tokens and (token := int(logits.argmax())) not in runtime.end_ids:
        written.append(token)
        logits = sequence.append((token,))
    return str(runtime.tokenizer.decode(written))
