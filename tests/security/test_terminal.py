"""What files, models and hubs say: it commands no terminal, fills no error, and is not downloaded before it is judged."""

import json
import sys
from pathlib import Path

import pytest

from phi3kit.access.keys import KeyStore
from phi3kit.cli.main import main
from phi3kit.cli.terminal import cleaned
from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.errors import EndpointFailed, Phi3KitError, SourceInvalid
from phi3kit.formats.model_folder import judge, sizes_of
from phi3kit.packaging.sources.find import find_source
from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id, open_store
from tests.conftest import settings_for
from tests.support.actors import ADMIN
from tests.support.hub_server import local_hub


class TestErrors:
    def test_have_no_control_characters_and_an_end(self) -> None:
        for kind in (Phi3KitError, SourceInvalid):
            error = kind("a\x1b]0;pwned\x07\r", "\x9b31m\u202e" + "x" * 10**7, "line\n\ttab é 你 🙂")
            assert error.what == "a\ufffd]0;pwned\ufffd\ufffd"
            assert error.why == "\ufffd31m\ufffd" + "x" * 995
            assert error.next_step == "line\n\ttab é 你 🙂"
            assert error.args == (error.what, error.why, error.next_step)
        assert issubclass(EndpointFailed, Phi3KitError)

    def test_a_config_that_names_something_long_is_refused_shortly(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"architectures": ["\x1b]0;pwned\x07" + "A" * 900_000]}))
        with pytest.raises(SourceInvalid) as refused:
            judge("x", tmp_path, sizes_of(tmp_path))
        assert len(str(refused.value)) < 3100
        assert "\x1b" not in str(refused.value)


class TestOutput:
    @pytest.mark.parametrize(("terminal", "printed"), [(True, "\ufffd[2Jé\n"), (False, "\x1b[2Jé\n")])
    def test_control_characters_reach_no_terminal_and_files_stay_exact(
        self, terminal: bool, printed: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for stream in (sys.stdout, sys.stderr):
            monkeypatch.setattr(stream, "isatty", lambda: terminal)
        with cleaned():
            print("\x1b[2Jé")
            print("\x1b[2Jé", file=sys.stderr)
            sys.stdout.writelines(["\x1b[2J", "é\n"])
        assert capsys.readouterr() == (printed * 2, printed)

    @pytest.mark.parametrize("more", [[], ["--json"]])
    def test_a_users_note_of_a_key_commands_not_the_terminal_of_who_lists_them(
        self, more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        KeyStore(tmp_path).create("bob", "ci\x1b[1A\x1b]52;c;eA==\x07\x9b\u202e", ADMIN)
        monkeypatch.setenv("PHI3KIT_HOME", str(tmp_path))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        assert main(["keys", "list", *more]) == 0
        printed = capsys.readouterr().out
        assert "bob" in printed
        assert not [each for each in "\x1b\x07\x9b\u202e" if each in printed]

    @pytest.mark.parametrize("format_", ["table", "csv", "json"])
    def test_another_programs_turns_command_not_the_terminal_of_who_reads_usage(
        self, format_: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = settings_for(tmp_path)
        store, experiment = open_store(settings), experiment_id(settings, USAGE_EXPERIMENT)
        tags = {"phi3kit.wrapper": "onnx\x1b]0;x\x07", "phi3kit.finish_reason": "stop", "phi3kit.origin": "ui\u202e"}
        run = store.create_run(experiment, tags=tags | {"phi3kit.interface": "raw\x9b31m"}).info.run_id
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            store.log_metric(run, name, 0 if name == "completion_tokens" else 1)
        store.set_terminated(run)
        monkeypatch.setenv("PHI3KIT_HOME", str(tmp_path))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        assert main(["usage", "--format", format_]) == 0
        printed = capsys.readouterr().out
        assert "onnx" in printed
        assert not [each for each in "\x1b\x07\x9b\u202e" if each in printed]


class TestHub:
    @pytest.mark.parametrize("name", ["config.json", "genai_config.json"])
    def test_a_config_of_megabytes_is_refused_before_it_is_downloaded(self, tmp_path: Path, name: str) -> None:
        small = dict.fromkeys(("tokenizer.json", "tokenizer_config.json"), b"{}")
        with local_hub() as hub:
            hub.add("evil/big", {**small, "model.safetensors": b"x", name: b" " * 1_000_001})
            with pytest.raises(SourceInvalid, match="1,000,001 bytes"):
                find_source("evil/big", ADMIN, settings_for(tmp_path, HF_ENDPOINT=hub.url))
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 10**5]

    def test_a_license_is_a_short_text(self, tmp_path: Path) -> None:
        names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
        with local_hub() as hub:
            hub.add(
                "evil/licensed",
                {name: (MODEL_FOLDER / name).read_bytes() for name in names},
                license="mit\x1b[2J" + "L" * 10**5,
            )
            source = find_source("evil/licensed", ADMIN, settings_for(tmp_path, HF_ENDPOINT=hub.url))
        assert source.license == "mit\ufffd[2J" + "L" * 93
