"""The engine is shared by users: however many answers one of them asks for, another's come at most twice as slowly."""

from collections.abc import Iterator

import pytest

from phi3kit.worker.engine import Engine, Generation
from phi3kit.worker.kv_cache import KvCache
from phi3kit.worker.sampling import Sampling
from tests.support.waiting import wait_for
from tests.worker.test_engine import END, Reader, ScriptedRuntime, ids, prompted


@pytest.fixture
def runtime() -> ScriptedRuntime:
    long = [*ids("word " * 400)]
    scripts = {f"{name} {number}": long for name in ("eve", "ada") for number in range(20)}
    return ScriptedRuntime({**scripts, "ada short": [*ids("of all of them "), END]})


@pytest.fixture
def engine(runtime: ScriptedRuntime) -> Iterator[Engine]:
    runtime.may_write.clear()
    engine = Engine(lambda: (runtime, KvCache(runtime, 10**9)), 32)
    engine.start()
    wait_for("a loaded model", lambda: engine.state == "ready")
    yield engine
    runtime.may_write.set()
    engine.close()


def asked(engine: Engine, prompt: str, max_tokens: int = 200) -> Reader:
    reader = Reader()
    user = prompt.split()[0]
    engine.submit(Generation(prompted(prompt), max_tokens, Sampling(), (), reader, user=user))
    return reader


def test_of_one_user_at_most_two_answers_advance_with_anothers_and_all_of_them_in_turn(
    engine: Engine, runtime: ScriptedRuntime
) -> None:
    others = [asked(engine, f"eve {number}") for number in range(6)]
    ada = asked(engine, "ada 1")
    runtime.may_write.set()
    assert ada.done().completion_tokens == 200
    order = [word for word, _ in runtime.computed]
    behind_the_prompts = order[order.index("ada") + 60 :]
    until_ada_ends = behind_the_prompts[: len(behind_the_prompts) - behind_the_prompts[::-1].index("ada")]
    # Two for one, as far as rounds can be measured on a machine with other work; six times as many, before.
    assert until_ada_ends.count("eve") <= 3 * until_ada_ends.count("ada") + 12
    assert max(map(len, (reader.outputs for reader in others))) > 0
    written = [reader.done().completion_tokens for reader in others]
    assert written == [200] * 6


def test_who_comes_behind_many_of_another_does_not_wait_for_all_of_them(
    engine: Engine, runtime: ScriptedRuntime
) -> None:
    others = [asked(engine, f"eve {number}", max_tokens=30) for number in range(20)]  # eight at once, twelve wait
    ada = asked(engine, "ada short", max_tokens=4)
    runtime.may_write.set()
    ada.done()
    for reader in others:
        reader.done()
    order = [word for word, _ in runtime.computed]
    assert order[::-1].index("ada") > 200  # tokens of the twelve that came before and were written behind


CONTEXT = 600  # tokens


class TestMemory:
    """Two contexts: as much as a worker reserves without a setting."""

    @staticmethod
    def admitted(runtime: ScriptedRuntime, *rounds: dict[str, int], several_users: bool = True) -> list[str]:
        """Whose answers are active when in each round so many tokens of answers were asked for, by prompt."""
        cache = KvCache(runtime, 2 * CONTEXT)
        engine = Engine(lambda: (runtime, cache), 32, several_users=several_users)
        engine._loaded = (runtime, cache)
        for prompts in rounds:
            for prompt, tokens in prompts.items():
                asked(engine, prompt, tokens)
            engine._admit(runtime, cache)
        return [answer.user for answer in engine._active]

    def test_long_answers_of_one_user_leave_half_of_it_to_those_who_come(self, runtime: ScriptedRuntime) -> None:
        assert self.admitted(runtime, {"eve 1": 500, "eve 2": 500}, {"ada 1": 500}) == ["eve", "ada"]

    def test_short_ones_leave_half_of_the_places(self, runtime: ScriptedRuntime) -> None:
        short = {f"eve {number}": 20 for number in range(8)}
        assert self.admitted(runtime, short, {"ada 1": 20}) == ["eve"] * 4 + ["ada"]

    def test_who_is_alone_on_their_machine_has_all_of_it_until_another_comes(self, runtime: ScriptedRuntime) -> None:
        long = {"eve 1": 400, "eve 2": 400}
        assert self.admitted(runtime, long, several_users=False) == ["eve"] * 2
        assert self.admitted(runtime, {"ada 1": 20} | long, several_users=False) == ["ada", "eve"]

    def test_one_answer_may_have_more_than_half(self, runtime: ScriptedRuntime) -> None:
        assert self.admitted(runtime, {"eve 1": 2 * CONTEXT - 10}) == ["eve"]
