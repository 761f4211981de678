"""Spreadsheet: texts that a spreadsheet shows as they are, and does not compute.

Knows which characters begin a formula. Source: OWASP, "CSV Injection": an apostrophe before such a cell.
"""

FORMULA_BEGINNINGS = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
    "\n",
    "\uff1d",
    "\uff0b",
    "\uff0d",
    "\uff20",
)  # the last: full width


def as_text(cell: str) -> str:
    """The cell, with an apostrophe before what would be a formula."""
    return f"'{cell}" if cell.startswith(FORMULA_BEGINNINGS) else cell
