"""Saved drawer: the saved conversations: search, open, rename, delete, import."""

from collections.abc import Callable
from functools import partial

import streamlit as st

from phi3kit.conversations import transcripts
from phi3kit.conversations.saved import MAX_TITLE_CHARACTERS, ListedConversation
from phi3kit.conversations.shared import SharedConversations
from phi3kit.ui.chat import open_conversation
from phi3kit.ui.shared import actions, permissions, resources, shell, theme, words
from phi3kit.ui.shared.literal import literal

_PAGE = 25  # conversations at once
_DONE, _RENAMING, _DELETING = "drawer_done", "drawer_renaming", "drawer_deleting"
_PLACE = "drawer"  # of what a click here came to


def show_button() -> None:
    """The button that opens the drawer."""
    keeps = permissions.may("keep")
    why = None if keeps else "Conversations of visitors are not saved. This one lasts until its tab is closed."
    if st.button("Conversations", icon=":material/history:", key="open_drawer", disabled=not keeps, help=why):
        for key in (_DONE, _RENAMING, _DELETING):
            st.session_state.pop(key, None)
        _drawer()


# A title that was changed here is in exports from then on: the page runs again when the drawer is closed.
@st.dialog("Conversations", position="left", width=460, icon=":material/history:", on_dismiss="rerun")
def _drawer() -> None:
    if st.session_state.pop(_DONE, False):
        st.rerun()  # closes the drawer
    with shell.errors_shown():
        actions.show_outcome(_PLACE)
        text = st.text_input(
            "Search", type="search", key="drawer_search", placeholder="Titles, messages and answers",
            label_visibility="collapsed", on_change=lambda: st.session_state.pop("drawer_page", None),
        )  # fmt: skip
        place = st.container()
        page = st.session_state.get("drawer_page", 1)
        found, total = open_conversation.store().find(text or "", _PAGE, (page - 1) * _PAGE)
        last = max(1, -(-total // _PAGE))
        if page > last:  # the conversations of that page were deleted
            st.session_state["drawer_page"] = page = last
            found, total = open_conversation.store().find(text or "", _PAGE, (page - 1) * _PAGE)
        if last > 1:
            st.pagination(last, key="drawer_page")
        with place:
            _show_import()
            if not found:
                st.caption(
                    "No conversations contain this text."
                    if text
                    else "No conversations yet. Each one is saved automatically."
                )
            for each in found:
                _show_row(each)


def _show_row(each: ListedConversation) -> None:
    if st.session_state.get(_RENAMING) == each.id:
        _show_renaming(each)
        return
    if st.session_state.get(_DELETING) == each.id:
        _show_deleting(each)
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        here = "open here · " if each.id == st.session_state["conversation"].id else ""
        with st.container(gap=None):
            st.button(
                literal(each.name), key=f"open_{each.id}", type="tertiary", on_click=_attempt,
                args=(partial(_open, each.id),),
            )  # fmt: skip
            st.caption(f"{here}{words.counted(each.turns, 'turn')} · {words.date(each.changed_at, '%b %Y %H:%M')}")
        chosen = st.menu_button(
            "", ["Rename", "Delete"], key=f"drawer_more_{each.id}", type="tertiary", icon=":material/more_vert:"
        )
        if chosen:
            st.session_state[_RENAMING if chosen == "Rename" else _DELETING] = each.id
            st.rerun(scope="fragment")


def _attempt(act: Callable[[], object]) -> None:
    actions.attempt(act, place=_PLACE)


def _open(conversation_id: str) -> None:
    found = open_conversation.store().open(conversation_id)
    if found is None:
        open_conversation.note("This conversation was deleted in another tab.")
    else:
        open_conversation.open_here(found)
    st.session_state[_DONE] = True


def _show_renaming(each: ListedConversation) -> None:
    key = f"title_{each.id}"

    def save() -> None:
        open_conversation.store().rename(each.id, str(st.session_state.get(key) or ""))
        st.session_state.pop(_RENAMING, None)

    with st.form(f"rename_{each.id}", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        st.text_input("Title", each.name, key=key, max_chars=MAX_TITLE_CHARACTERS, label_visibility="collapsed")
        st.form_submit_button("Save", on_click=_attempt, args=(save,))
        st.form_submit_button("Cancel", on_click=lambda: st.session_state.pop(_RENAMING, None))


def _show_deleting(each: ListedConversation) -> None:
    def delete() -> None:
        if st.session_state["conversation"].id == each.id:
            open_conversation.stop_answer()  # it would save the conversation when it ends
        SharedConversations(resources.settings().home).end(each.id, resources.actor())
        open_conversation.store().delete(each.id)
        st.session_state.pop(_DELETING, None)
        if st.session_state["conversation"].id == each.id:
            open_conversation.new()
            st.session_state[_DONE] = True

    with st.container(border=True):
        st.markdown(
            f"Delete **{literal(each.name)}**? This permanently deletes its text. Its token counts stay in Usage."
        )
        with st.container(horizontal=True):
            st.button(
                theme.destructive("Delete"),
                icon=":material/delete:",
                key="drawer_delete",
                on_click=_attempt,
                args=(delete,),
            )
            st.button("Keep", key="drawer_keep", on_click=lambda: st.session_state.pop(_DELETING, None))


def _show_import() -> None:
    def read() -> None:
        file = st.session_state.get("drawer_file")
        if file is None:
            return
        conversation, _ = transcripts.from_openai(file.getvalue())
        open_conversation.store().save(conversation)
        open_conversation.open_here(conversation)
        st.session_state[_DONE] = True

    with st.expander("Import", icon=":material/upload:"):
        st.file_uploader(
            "A JSON file of OpenAI messages",
            type="json",
            key="drawer_file",
            max_upload_size=transcripts.MAX_IMPORT_BYTES // 1_000_000,
            on_change=_attempt,
            args=(read,),
        )
