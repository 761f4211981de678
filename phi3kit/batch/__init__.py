"""Batches: a table of prompts in, the same table with completions out; nothing is computed twice."""
