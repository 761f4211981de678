"""Prompts: the chat template and back, what goes wrong in a raw prompt, and what tokens a text becomes."""
