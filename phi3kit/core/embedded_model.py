"""Where the files of the embedded model lie.

Knows three paths. Knows neither how they were made (phi3kit.embedded, the recipe) nor what is built of them.
"""

from pathlib import Path

_EMBEDDED = Path(__file__).parents[1] / "embedded"

MODEL_FOLDER = _EMBEDDED / "model"
EVALUATION_FILE = MODEL_FOLDER / "evaluation.json"
QUESTIONS_FILE = _EMBEDDED / "questions.csv"  # those that it never saw, with the right answers
