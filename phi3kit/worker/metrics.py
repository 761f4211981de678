"""Metrics of a worker in Prometheus' form, named like the metrics of runs."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from phi3kit.core.records import TurnRecord, WrapperName


class WorkerMetrics:
    """Counters of one worker, in a registry of their own."""

    def __init__(self, wrapper: WrapperName) -> None:
        self.registry = registry = CollectorRegistry()
        self._turns = Counter("phi3kit_turns", "Turns", ["wrapper", "finish_reason"], registry=registry)
        self._prompt = Counter("phi3kit_prompt_tokens", "Prompt tokens", ["wrapper"], registry=registry)
        self._completion = Counter("phi3kit_completion_tokens", "Completion tokens", ["wrapper"], registry=registry)
        self._first = Histogram(
            "phi3kit_time_to_first_token_s", "Seconds to the first token", ["wrapper"], registry=registry
        )
        self._duration = Histogram("phi3kit_duration_s", "Seconds from request to end", ["wrapper"], registry=registry)
        self.waiting = Gauge("phi3kit_waiting", "Answers waiting in the queue", registry=registry)
        self._wrapper = wrapper

    def count(self, turn: TurnRecord) -> None:
        """Add one turn."""
        self._turns.labels(self._wrapper, turn.finish_reason).inc()
        self._prompt.labels(self._wrapper).inc(turn.prompt_tokens)
        self._completion.labels(self._wrapper).inc(turn.completion_tokens)
        self._duration.labels(self._wrapper).observe(turn.duration_s)
        if turn.time_to_first_token_s is not None:
            self._first.labels(self._wrapper).observe(turn.time_to_first_token_s)
