"""Builds: from a source to a logged, checked MLflow model; planned before, followed while they run."""
