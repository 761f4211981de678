"""Read-only: a conversation that somebody of the team has shared, by its link.

Knows widgets. Does not know who may read it.
"""

import streamlit as st

from phi3kit.conversations.conversation import Conversation
from phi3kit.conversations.shared import SharedConversations
from phi3kit.ui.chat import messages, open_conversation
from phi3kit.ui.shared import pages, resources
from phi3kit.ui.shared.literal import literal

PARAMETER = "shared"  # in the page's address


def show(token: str) -> None:
    """Draw what a link leads to. Raises NotAllowed or StorageFailed."""
    found = SharedConversations(resources.settings().home).open(token, resources.actor())
    if found is None:
        st.warning("The conversation in this link does not exist or is no longer shared.", icon=":material/link_off:")
    else:
        st.header(literal(found.conversation.name))
        st.caption(f":material/visibility: Read only. Shared by {literal(found.owner, inside=True)}.")
        messages.show_read_only(found.conversation.shown)
    st.button("Open your own chat", icon=pages.PAGES["chat"].icon, on_click=st.query_params.clear)


def show_choice(conversation: Conversation) -> None:
    """Whether this conversation may be read by the team, and the link to it; where there is a team."""
    if resources.settings().profile != "team" or not conversation.version:
        return
    shared, actor = SharedConversations(resources.settings().home), resources.actor()
    st.markdown("**Read-only link for your team**")
    key, token = f"share_{conversation.id}", shared.token(conversation.id, actor)
    st.session_state[key] = token is not None  # another tab may have changed it

    def change() -> None:
        (shared.share if st.session_state[key] else shared.end)(conversation.id, actor)

    st.toggle(
        "Whoever has a role here can read this conversation",
        key=key,
        on_change=open_conversation.attempt,
        args=(change,),
    )
    if token:
        st.code(f"{(st.context.url or '').partition('?')[0]}?{PARAMETER}={token}", language=None, wrap_lines=True)
        st.caption("It shows the conversation as it is now, later turns included, until you switch this off.")
