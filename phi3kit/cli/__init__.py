"""Commands that fill a module of their own: their arguments, and what they print."""
