"""Command line: a module a command, with its arguments and what it prints."""
