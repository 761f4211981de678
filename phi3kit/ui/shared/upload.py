"""Upload: a table that a person uploads. It stays chosen while other pages are open, and after a reload.

Knows the widget, the session and the page's address. Does not know how tables are kept or read.
"""

from collections.abc import Iterable
from pathlib import Path

import streamlit as st

from phi3kit.batch.jobs import find_upload, keep_upload
from phi3kit.ui.shared import resources
from phi3kit.ui.shared.literal import literal

_ADDRESS = "table"  # in the page's address: the upload's id


def choose_upload(key: str, suffixes: Iterable[str], help: str) -> Path | None:
    """The uploaded table; None before there is one.

    suffixes: of the files that are taken, without dots. Raises NotAllowed, TableInvalid, LimitReached or StorageFailed.
    """
    actor, settings = resources.actor(), resources.settings()
    kept_key = f"{key}_kept"

    def forget() -> None:  # another file was given, or this one taken away
        st.session_state[kept_key] = None
        st.query_params.pop(_ADDRESS, None)

    given = st.file_uploader("File", type=list(suffixes), key=key, help=help, on_change=forget)
    if kept_key not in st.session_state:
        st.session_state[kept_key] = _linked()
    file: Path | None = st.session_state[kept_key]
    if file is not None and not file.is_file():  # newer uploads took its room
        file = None
    if given is None and file is not None:
        st.caption(f":material/table: **{literal(file.name, inside=True)}** was uploaded before and is still chosen.")
    elif given is not None and file is None:
        file = keep_upload(given.name, given.getvalue(), actor, settings)
    st.session_state[kept_key] = file
    if file is not None and st.query_params.get(_ADDRESS) != file.parent.name:
        st.query_params[_ADDRESS] = file.parent.name
    return file


def is_linked() -> bool:
    """Whether the address names a table."""
    return _ADDRESS in st.query_params


def _linked() -> Path | None:
    """The table that the address names."""
    identifier = st.query_params.get(_ADDRESS)
    if not identifier:
        return None
    found = find_upload(identifier, resources.actor(), resources.settings())
    if found is None:
        st.query_params.pop(_ADDRESS)
        st.toast("The link's table does not exist, or somebody else uploaded it.", icon=":material/link_off:")
    return found
