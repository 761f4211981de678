"""Withheld questions: kept from training by the recipe; with the right answers, a table to evaluate with.

    python -m phi3kit.embedded.withheld     write questions.csv again, after a change of the corpus

Knows the corpus. Asks no model.
"""

import csv
from pathlib import Path

from phi3kit.core.embedded_model import QUESTIONS_FILE
from phi3kit.embedded.corpus import LANGUAGES, questions

COLUMNS = ("message", "expected", "language", "kind")


def withheld_rows() -> list[tuple[str, str, str, str]]:
    """Every withheld first question, languages in turn: (message, expected, language, kind)."""
    return [
        (question.text, question.answer, language, question.kind)
        for language in LANGUAGES
        for question in questions(language)
        if question.withheld
    ]


def write_questions(file: Path = QUESTIONS_FILE) -> None:
    """Write the table."""
    with file.open("w", encoding="utf-8", newline="") as opened:
        lines = csv.writer(opened, lineterminator="\n")
        lines.writerow(COLUMNS)
        lines.writerows(withheld_rows())


if __name__ == "__main__":
    write_questions()
