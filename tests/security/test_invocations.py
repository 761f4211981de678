"""/invocations: nobody waits long for another user's call, and not at all for one whose caller has gone."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from phi3kit.core.errors import WorkerFailed
from phi3kit.core.settings import PROJECT_ROOT
from phi3kit.tracking.logged_models import resolve
from phi3kit.usage.budgets import today
from phi3kit.usage.outbox import Outbox
from phi3kit.worker import scoring
from phi3kit.worker.invocations import Call, Scored, Scoring
from tests.conftest import Built, settings_for
from tests.support.worker_app import OWN_KEY, worker_app

BOUND = "phi3kit.worker.invocations._LONGEST_BESIDE_OTHERS_S"


async def _answered(self: Scoring, line: bytes) -> bytes:
    """Instead of a process: a body of `for ever` is never answered."""
    if json.loads(line)["data"] == "for ever":
        await asyncio.Event().wait()
    return json.dumps({"status": 200, "media_type": "application/json", "content": "[]"}).encode()


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scoring, "_answered", _answered)


class TestAnothersCall:
    @pytest.mark.parametrize("first", [True, False], ids=["waits already", "comes later"])
    def test_it_ends_soon_once_one_waits(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool) -> None:
        monkeypatch.setattr(BOUND, 0.01)

        async def both() -> list[Scored | BaseException]:
            scoring = Scoring(tmp_path, "onnx", settings_for(tmp_path))
            if first:
                await scoring._one_at_a_time.acquire()
            calls = [asyncio.create_task(scoring.answer(Call("alice", "for ever", "text/csv")))]
            await asyncio.sleep(0)
            calls.append(asyncio.create_task(scoring.answer(Call("bob", "prompt\nhi", "text/csv"))))
            await asyncio.sleep(0)
            if first:
                scoring._one_at_a_time.release()
            async with asyncio.timeout(30):
                return await asyncio.gather(*calls, return_exceptions=True)

        alice, bob = asyncio.run(both())
        assert isinstance(alice, WorkerFailed)
        assert bob == Scored(200, "application/json", "[]")

    def test_ones_own_calls_take_no_time_away(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(BOUND, 0.01)

        async def own() -> bool:
            scoring = Scoring(tmp_path, "onnx", settings_for(tmp_path))
            calls = [asyncio.create_task(scoring.answer(Call("ada", "for ever", "text/csv"))) for _ in range(2)]
            done, running = await asyncio.wait(calls, timeout=0.2)
            for each in running:
                each.cancel()
            return not done

        assert asyncio.run(own())


@pytest.mark.usefixtures("cold_python")  # a warm one might have ended before it is looked at
def test_a_worker_that_ends_meanwhile_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It left a traceback instead, and the process."""
    monkeypatch.undo()  # a real process; it is still importing its libraries

    async def ended() -> tuple[BaseException | Scored, bool]:
        scoring = Scoring(tmp_path, "onnx", settings_for(tmp_path))
        call = asyncio.create_task(scoring.answer(Call("ada", "prompt\nhi", "text/csv")))
        while scoring._process is None:  # noqa: ASYNC110 -- it tells nobody
            await asyncio.sleep(0.01)
        process = scoring._process
        await scoring.close()
        (outcome,) = await asyncio.gather(call, return_exceptions=True)
        return outcome, process.returncode is not None

    outcome, gone = asyncio.run(ended())
    assert isinstance(outcome, WorkerFailed)
    assert gone


@pytest.mark.skipif(sys.platform != "linux", reason="where a process' limits cannot be read")
def test_its_process_has_no_more_memory_than_was_free(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # a real process
    folder = resolve(built.uri("onnx"), built.settings).folder

    async def asked() -> tuple[Scored, tuple[int, int]]:
        scoring = Scoring(folder, "onnx", built.settings)
        answer = await scoring.answer(Call("ada", json.dumps({"prompt": "Hi"}), "application/json"))
        assert scoring._process is not None
        limits = psutil.Process(scoring._process.pid).rlimit(psutil.RLIMIT_DATA)
        await scoring.close()
        return answer, limits

    answer, (soft, hard) = asyncio.run(asked())
    assert answer.status == 200
    assert 0 < soft == hard < psutil.virtual_memory().total


def test_what_needs_more_memory_than_its_bound_fails_alone() -> None:
    code = "from phi3kit.core.confinement import bound_memory; bound_memory(400_000_000); bytearray(800_000_000)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("MemoryError")


def test_a_caller_who_goes_ends_it_and_pays_for_its_time(built: Built, tmp_path: Path) -> None:
    body, sent = b"for ever", []
    came = iter([{"type": "http.request", "body": body}])

    async def receive() -> dict[str, Any]:
        return next(came, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        sent.append(message)

    headers = {"host": "127.0.0.1", "authorization": f"Bearer {OWN_KEY}", "content-type": "text/csv"}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/invocations",
        "raw_path": b"/invocations", "query_string": b"", "scheme": "http", "root_path": "",
        "server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 1),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    with worker_app(built, tmp_path, managed=False) as client:
        of_the_body = client.post("/tokenize", json={"prompt": "for ever"}).json()["count"]
        assert client.portal is not None

        async def asked() -> None:
            async with asyncio.timeout(60):
                await client.app(scope, receive, send)  # type: ignore[arg-type]

        client.portal.call(asked)
        assert sent[0]["status"] == 499
        assert (
            client.post("/invocations", content="prompt\nhi", headers={"Content-Type": "text/csv"}).status_code == 200
        )
        assert Outbox(tmp_path).spent_tokens(today(), "api") > of_the_body


class _Model:
    """Stands where a logged model stands, and keeps what reaches it."""

    asked: Any = None

    @property
    def metadata(self) -> "_Model":
        return self

    def get_input_schema(self) -> None:
        return None

    def predict(self, data: Any) -> list[str]:
        self.asked = data
        return ["ok"]


class TestSquares:
    """Some kilobytes whose table has gigabytes, here with a million cells."""

    @pytest.mark.parametrize(
        ("body", "kind"),
        [
            (",".join(f"c{number}" for number in range(1_000)) + "\n" + "1\n" * 1_000, "text/csv"),
            (json.dumps({"dataframe_records": [{f"k{each}": 0} for each in range(1_000)]}), "application/json"),
            (
                json.dumps({"dataframe_split": {"columns": [*range(1_000)], "index": [*range(1_000)], "data": []}}),
                "application/json; charset=utf-8",
            ),
        ],
        ids=["csv", "records", "split"],
    )
    def test_no_table_is_made_of_them(self, body: str, kind: str) -> None:
        model = _Model()
        said = scoring.answer(model, body, kind)
        assert (said["status"], model.asked) == (400, None)
        told = json.loads(said["content"])
        assert told["error_code"] == "BAD_REQUEST"
        assert told["message"].startswith("The payload is too big. It makes a table of up to 1,00")

    def test_a_table_of_rows_is_answered(self) -> None:
        model = _Model()
        said = scoring.answer(model, "prompt\n" + '"Hi, you"\n' * 1_000, "text/csv")
        assert (said["status"], len(model.asked)) == (200, 1_000)
