"""Redaction: what a log line says in a process that was told secrets."""

import json
import logging
import subprocess
import sys

import pytest

from phi3kit.core import redaction
from phi3kit.core.errors import StorageFailed
from phi3kit.core.redaction import MASK, masked, secrets_among
from phi3kit.core.secret import is_secret_name
from phi3kit.core.settings import PROJECT_ROOT

_LOGGING = """
import logging
from phi3kit.core.redaction import hide_in_logs
hide_in_logs({"LAB_KEY": "sesame-open", "auth": {"cookie_secret": "cookie-jar"}, "HF_TOKEN": "abc", "X": "plain words"})
hide_in_logs({"MLFLOW_TRACKING_URI": "postgresql://maria:hunter2hunter@db/mlflow"})
log = logging.getLogger("somebody.elses.library")
log.warning("GET with %s and %r", "sesame-open", {"jar": "cookie-jar"})
log.warning("at postgresql://maria:hunter2hunter@db: 100 %, abc, plain words")
try:
    raise ValueError("refused: sesame-open")
except ValueError:
    log.exception("it failed")
"""


def test_no_log_line_holds_a_secret_of_this_process_tracebacks_neither():
    done = subprocess.run(
        [sys.executable, "-c", _LOGGING], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    first, second, *rest = done.stderr.splitlines()
    assert first == f"GET with {MASK} and {{'jar': '{MASK}'}}"
    assert second == f"at postgresql://maria:{MASK}@db: 100 %, abc, plain words"  # three characters are no secret
    assert (rest[0], rest[-1]) == ("it failed", f"ValueError: refused: {MASK}")


def test_no_error_quotes_a_secret_of_this_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(redaction, "_hidden", {"hunter2hunter"})
    error = StorageFailed("http://ops:hunter2hunter@lab failed.", "MLflow says: hunter2hunter.", "Ask hunter2hunter.")
    assert str(error) == f"http://ops:{MASK}@lab failed. MLflow says: {MASK}. Ask {MASK}."


def test_the_longer_of_two_secrets_is_masked_whole():
    assert masked("a secret-key, a secret", ["secret", "secret-key"]) == f"a {MASK}, a {MASK}"


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("p%40ss%2Fword99", "for p@ss/word99"),
        ("p@ss/word99", "for p%40ss%2Fword99 and p%40ss/word99"),
        ('ab"c\\d\nEFG', repr('ab"c\\d\nEFG') + json.dumps('ab"c\\d\nEFG')),
        ("schlüssel", ascii("schlüssel")),
    ],
)
def test_a_secret_is_masked_however_it_is_spelled(secret: str, said: str):
    shown = masked(said, [secret])
    assert MASK in shown
    assert not any(part in shown for part in ("ss", "EFG", "schl"))


def test_a_record_whose_arguments_do_not_fit_shows_none_of_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(redaction, "_hidden", {"sesame-open"})
    make = redaction._masking(logging.LogRecord)
    for message, arguments in (("%d", ("sesame-open",)), ("sesame-open", (1, "sesame-open")), (b"%s %s", (1,))):
        record = make("any", logging.ERROR, "file", 1, message, arguments, None)
        assert "sesame-open" not in f"{record.getMessage()} {record.msg!r} {record.args!r}"
        assert "does not fit its arguments" in record.getMessage()


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *(
            (name, True)
            for name in ("MY_PASSWD", "DB_PASS", "PGPASS_X", "MYSQL_PWD", "GH_PAT", "SENTRY_DSN", "auth", "Key")
        ),
        *(
            (name, False)
            for name in ("PATH", "PYTHONPATH", "PWD", "AUTHOR", "PATTERN", "PHI3KIT_HOME", "PASSED", "OLDPWD")
        ),
    ],
)
def test_names_of_secrets(name: str, secret: bool):
    assert is_secret_name(name) == secret


def test_what_counts_as_a_secret():
    told = {
        "PHI3KIT_API_KEY": "a",
        "aws_secret_access": "b",
        "PHI3KIT_PORT": "8000",
        "HTTPS_PROXY": "http://u:c@p:1",
        "SENTRY_DSN": "https://d@sentry",
        "REDIS_URL": "redis://h/0?auth=e",
        "N": 7,
    }
    assert [each for each in secrets_among(told) if each] == ["a", "b", "c", "https://d@sentry", "d", "e"]
