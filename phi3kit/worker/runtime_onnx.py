"""Runtime of the onnx wrapper: an exported graph that computes a token of every conversation in one run.

A run reads all weights once for all its rows, which is what batching saves. Knows which sequence lies in which row.
"""

from collections import defaultdict
from pathlib import Path

from phi3kit.core.errors import WorkerFailed
from phi3kit.worker.kv_rows import KvRows, block_tokens, gathering
from phi3kit.worker.onnx_graph import OnnxGraph
from phi3kit.worker.runtime import Logits, TokenSequence, Work
from phi3kit.worker.tokenization import load_tokenizers

_ROWS = 32  # sequences being written, and sequences kept for their next turn


class OnnxSequence:
    """See TokenSequence."""

    def __init__(self, runtime: "OnnxRuntime", row: int, long: bool) -> None:
        self.ids: list[int] = []
        self.row = row
        self.long = long  # whether it takes the factors for long texts
        self._runtime = runtime

    def serves(self, longest: int) -> bool:
        """See TokenSequence.serves."""
        return self._runtime.is_long(longest) == self.long

    def truncate(self, length: int) -> bool:
        """See TokenSequence.truncate; always possible."""
        if length < len(self.ids):
            self._runtime.rows.free(self.row, length, len(self.ids))
            del self.ids[length:]
        return True

    def copy(self, other: TokenSequence, length: int) -> bool:
        """See TokenSequence.copy."""
        assert isinstance(other, OnnxSequence)
        if other.long != self.long:
            return False
        self._runtime.rows.copy(other.row, self.row, len(self.ids), length)
        self.ids += other.ids[len(self.ids) : length]
        return True

    def close(self) -> None:
        """See TokenSequence.close."""
        self._runtime.close(self)


class OnnxRuntime:
    """One Phi-3 as an ONNX graph on the CPU."""

    max_sequences = _ROWS

    def __init__(self, folder: Path, threads: int) -> None:
        """folder: graph, tokenizer, genai_config.json. Raises WorkerFailed when the graph cannot be run."""
        self.tokenizer, self.text_tokenizer = load_tokenizers(folder)
        self._graph = graph = OnnxGraph(folder, threads)
        graph.prove()
        self.end_ids = graph.end_ids
        self.context_tokens = graph.context_tokens
        self.bytes_per_token = graph.layers * 2 * graph.heads * graph.head_size * graph.kv_dtype.itemsize
        self.block_tokens = block_tokens(graph.head_size, graph.kv_dtype)
        self._sequences: list[OnnxSequence | None] = [None] * _ROWS
        self._last_row = -1  # of the last run: a new sequence goes after it
        self._rows: KvRows | None = None  # laid out with the first sequence at the latest

    @property
    def rows(self) -> KvRows:
        """The memory of all sequences."""
        assert self._rows is not None
        return self._rows

    def limit(self, longest: int) -> None:
        """See Runtime.limit: lays out the memory. Raises WorkerFailed when the system refuses the address space."""
        assert self._rows is None
        try:
            self._rows = self._graph.rows(_ROWS, longest)
        except (OSError, OverflowError) as error:
            raise WorkerFailed(
                what="There is no memory for conversations.",
                why=f"The system does not provide addresses for {_ROWS} of {longest:,} tokens: {error}.",
                next_step="Lower PHI3KIT_KV_BUDGET_MB, or let the system provide more (vm.overcommit_memory).",
            ) from error

    def is_long(self, tokens: int) -> bool:
        """Whether a text of so many tokens needs the factors for long ones."""
        return self._graph.short_tokens is not None and tokens > self._graph.short_tokens

    def open(self, longest: int) -> OnnxSequence:
        """See Runtime.open."""
        if self._rows is None:
            self.limit(self.context_tokens)
        free = (row for row, sequence in enumerate(self._sequences) if sequence is None)
        row = min(free, key=lambda row: abs(row - self._last_row - 1))
        sequence = self._sequences[row] = OnnxSequence(self, row, self.is_long(longest))
        return sequence

    def close(self, sequence: OnnxSequence) -> None:
        """Give a sequence's row and its memory back."""
        self.rows.free(sequence.row, 0, len(sequence.ids))
        self._sequences[sequence.row] = None

    def step(self, work: Work) -> list[Logits | Exception]:
        """See Runtime.step: single tokens are computed together where they take the same factors."""
        together: defaultdict[tuple[bool, int | None], list[tuple[OnnxSequence, list[int]]]] = defaultdict(list)
        for sequence, ids in work:
            assert isinstance(sequence, OnnxSequence)
            together[sequence.long, None if len(ids) == 1 else sequence.row].append((sequence, list(ids)))
        results: dict[TokenSequence, Logits | Exception] = {}
        for group in together.values():
            results |= self._computed(group)
        return [results[sequence] for sequence, _ in work]

    def _computed(self, group: "list[tuple[OnnxSequence, list[int]]]") -> dict[TokenSequence, Logits | Exception]:
        try:
            scores = self._run(group)
        except Exception as error:
            if len(group) == 1:
                return {group[0][0]: error}
            # Any of them may be the cause. Each again alone: what was written after a row's tokens is not read.
            return {key: result for each in group for key, result in self._computed([each]).items()}
        for sequence, ids in group:
            sequence.ids += ids
        return scores

    def _run(self, group: "list[tuple[OnnxSequence, list[int]]]") -> dict[TokenSequence, Logits | Exception]:
        first = self._brought_together([sequence for sequence, _ in group])
        group = sorted(group, key=lambda each: each[0].row)
        held = [len(sequence.ids) for sequence, _ in group]
        scores = self._graph.run(first, [ids for _, ids in group], held, group[0][0].long)
        self._last_row = first + len(group) - 1
        return {sequence: row for (sequence, _), row in zip(group, scores, strict=True)}

    def _brought_together(self, sequences: list[OnnxSequence]) -> int:
        """Move the sequences into neighbouring rows; the first of these."""
        held = [0 if sequence is None else len(sequence.ids) for sequence in self._sequences]
        first, exchanges = gathering(held, [sequence.row for sequence in sequences])
        for one, other in exchanges:
            self.rows.swap(one, other, held[one], held[other])
            moved = self._sequences[one], self._sequences[other]
            self._sequences[other], self._sequences[one] = moved
            for row in (one, other):
                if sequence := self._sequences[row]:
                    sequence.row = row
        return first
