"""Tracking: the MLflow store, logged models, model URIs, and the Model Registry."""
