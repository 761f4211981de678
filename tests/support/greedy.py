"""Greedy writing straight from a runtime: what an engine's answers are compared with."""

from phi3kit.worker.runtime import Logits, Runtime, TokenSequence


def stepped(runtime: Runtime, sequence: TokenSequence, ids: list[int]) -> Logits:
    """The scores behind `ids`, computed in one step."""
    (result,) = runtime.step([(sequence, ids)])
    if isinstance(result, Exception):
        raise result
    return result


def appended(runtime: Runtime, sequence: TokenSequence, ids: list[int], slice_tokens: int = 4096) -> Logits:
    """The scores behind all of `ids`, so many tokens at a time."""
    for begin in range(0, len(ids), slice_tokens):
        logits = stepped(runtime, sequence, ids[begin : begin + slice_tokens])
    return logits


def greedy(
    runtime: Runtime, sequence: TokenSequence, prompt: list[int], max_tokens: int = 60, slice_tokens: int = 4096
) -> str:
    """What the model says greedily behind a prompt."""
    logits = appended(runtime, sequence, prompt, slice_tokens)
    written: list[int] = []
    while len(written) < max_tokens and (token := int(logits.argmax())) not in runtime.end_ids:
        written.append(token)
        logits = stepped(runtime, sequence, [token])
    return str(runtime.tokenizer.decode(written))
