"""Formats: the chat template, raw prompts, tokens, OpenAI's schema, MLflow's signatures and payloads, Markdown."""
