"""Row choice: a table of which one row can be chosen.

Knows how Streamlit says what is selected. What the rows are, the caller knows.
"""

from collections.abc import Sequence
from typing import Any

import streamlit as st

DATE = st.column_config.DatetimeColumn(format="D MMM YYYY, HH:mm:ss")


def choose_row(rows: Sequence[dict[str, Any]], key: str, alt: str, columns: dict[str, Any]) -> int | None:
    """Draw the rows; the number of the chosen one. None: none is, or it is no longer there."""
    chosen: Any = st.dataframe(
        rows, hide_index=True, on_select="rerun", selection_mode="single-row", key=key, alt=alt, column_config=columns
    )
    at = chosen.selection.rows
    return int(at[0]) if at and at[0] < len(rows) else None
