"""Packaging: from a source of weights to a logged, checked MLflow model; planned before, followed while it runs."""
