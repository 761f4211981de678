"""Evaluation: a table of questions with expected answers, scored without another model, logged to MLflow."""
