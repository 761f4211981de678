"""Redaction: what a log line says in a process that was told secrets."""

import subprocess
import sys

from phi3kit.core.redaction import MASK, masked, secrets_among
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
        [sys.executable, "-c", _LOGGING], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    first, second, *rest = done.stderr.splitlines()
    assert first == f"GET with {MASK} and {{'jar': '{MASK}'}}"
    assert second == f"at postgresql://maria:{MASK}@db: 100 %, abc, plain words"  # three characters are no secret
    assert (rest[0], rest[-1]) == ("it failed", f"ValueError: refused: {MASK}")


def test_the_longer_of_two_secrets_is_masked_whole():
    assert masked("a secret-key, a secret", ["secret", "secret-key"]) == f"a {MASK}, a {MASK}"


def test_what_counts_as_a_secret():
    told = {
        "PHI3KIT_API_KEY": "a",
        "aws_secret_access": "b",
        "PHI3KIT_PORT": "8000",
        "HTTPS_PROXY": "http://u:c@p:1",
        "N": 7,
    }
    assert [each for each in secrets_among(told) if each] == ["a", "b", "c"]
