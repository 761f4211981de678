"""Signatures: what two models take and give, and what MLflow makes of a payload by the signature alone."""
