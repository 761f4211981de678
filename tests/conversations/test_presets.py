"""Presets: settings by name, per user."""

import sqlite3
from pathlib import Path

import pytest

from phi3kit.conversations.chat_settings import ChatSettings
from phi3kit.conversations.presets import Presets
from phi3kit.core.errors import RequestInvalid

COMEDIAN = ChatSettings("You are a stand-up comedian.", 0.7, 0.9, 64, 5, ("END",))


@pytest.fixture
def presets(tmp_path: Path) -> Presets:
    return Presets(tmp_path, "ada")


class TestPresets:
    def test_what_was_saved_is_loaded(self, presets: Presets):
        assert presets.save("  Κωμικός \n 1 ", COMEDIAN) == "Κωμικός 1"
        assert presets.load("Κωμικός 1") == (COMEDIAN, [])

    def test_the_same_name_is_replaced(self, presets: Presets):
        presets.save("A", COMEDIAN)
        presets.save("A", ChatSettings())
        assert presets.names() == ["A"]
        assert presets.load("A") == (ChatSettings(), [])

    def test_names_stand_in_the_alphabets_order(self, presets: Presets):
        for name in ("b", "A", "c"):
            presets.save(name, COMEDIAN)
        assert presets.names() == ["A", "b", "c"]

    @pytest.mark.parametrize("name", ["", "  \n", "x" * 61, "a\x00b", "a\u202eb"])
    def test_a_name_that_cannot_be_read_is_refused(self, presets: Presets, name: str):
        with pytest.raises(RequestInvalid, match="1 to 60 printable characters"):
            presets.save(name, COMEDIAN)
        assert presets.names() == []

    def test_another_user_has_none_of_them(self, presets: Presets, tmp_path: Path):
        presets.save("A", COMEDIAN)
        other = Presets(tmp_path, "bob")
        other.delete("A")
        assert (other.names(), other.load("A")) == ([], None)
        assert presets.names() == ["A"]

    def test_a_deleted_one_is_gone(self, presets: Presets):
        presets.save("A", COMEDIAN)
        presets.delete("A")
        assert presets.load("A") is None

    @pytest.mark.parametrize(
        ("kept", "temperature", "problem"),
        [
            ('{"temperature": 99, "seed": 3}', 0.0, "temperature is 99"),
            ("not json", 0.0, "cannot be read"),
            ("[]", 0.0, "cannot be read"),
            ("[" * 100_000, 0.0, "cannot be read"),
            ('{"seed":' * 100_000, 0.0, "cannot be read"),
        ],
        ids=lambda value: str(value)[:20],
    )
    def test_nonsense_in_the_file_is_told(
        self, presets: Presets, tmp_path: Path, kept: str, temperature: float, problem: str
    ):
        presets.save("A", COMEDIAN)
        with sqlite3.connect(tmp_path / "presets.db") as connection:
            connection.execute("update presets set settings = ?", (kept,))
        loaded = presets.load("A")
        assert loaded is not None
        assert loaded[0].temperature == temperature
        assert len(loaded[1]) == 1
        assert problem in loaded[1][0]
