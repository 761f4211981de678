"""Spreadsheet: texts that a spreadsheet shows as they are, and does not compute.

Knows which characters begin a formula. Source: OWASP, "CSV Injection": an apostrophe before such a cell.
"""

import re

# Full-width signs count. A spreadsheet whose language splits at semicolons sees no quotation marks within a line that
# is split at commas: for it a cell begins behind each semicolon, and a row behind each line end. "- " begins a list.
FORMULA = re.compile(r"\A(?=[=+\-@\t\r\n＝＋－＠])|(?<=[;\r\n])(?=[=+@＝＋＠]|[-－](?! ))")


def as_text(cell: str) -> str:
    """The cell, with an apostrophe before what would be a formula."""
    return FORMULA.sub("'", cell)
