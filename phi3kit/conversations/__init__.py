"""Conversations: trees of turns, what they are asked with, and how they are kept, shared and compared."""
