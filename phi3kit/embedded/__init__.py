"""The small Phi-3 that ships with phi3kit: real architecture, few parameters, knows only its corpus."""

from pathlib import Path

MODEL_FOLDER = Path(__file__).parent / "model"
EVALUATION_FILE = MODEL_FOLDER / "evaluation.json"
QUESTIONS_FILE = Path(__file__).parent / "questions.csv"  # those that it never saw, with the right answers
