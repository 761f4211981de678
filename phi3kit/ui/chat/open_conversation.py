"""Open conversation: the one of this tab, what is asked in it next, and that it is saved on the server.

Knows the session, the address and the saved conversations. Draws only what went wrong or happened elsewhere.
"""

from collections.abc import Callable
from dataclasses import replace

import streamlit as st

from phi3kit.conversations.chat_settings import ChatSettings
from phi3kit.conversations.conversation import ChatTurn, Conversation
from phi3kit.conversations.growing_answer import Growing, Pending
from phi3kit.conversations.saved import SavedConversations
from phi3kit.core.errors import Phi3KitError, StorageFailed
from phi3kit.ui.shared import resources, shell, target_choice
from phi3kit.ui.shared.literal import literal

_KEY, _PENDING, _NOTES, _ADDRESS = "conversation", "chat_pending", "chat_notes", "chat_address"
_ADOPTED = "chat_adopted"  # the question of another tab, or of this one before it was loaded anew
STOPPED = "The answer that was being written has been stopped. Its text so far is kept."
PARAMETER = "conversation"  # in the page's address


def store() -> SavedConversations:
    """This user's conversations."""
    actor = resources.actor()
    return SavedConversations(resources.settings().home, actor.name, keeps=actor.may("keep"))


def current() -> Conversation:
    """The conversation of this tab: the address's, or the one that was open; up to date with other tabs."""
    conversation: Conversation = st.session_state.setdefault(_KEY, Conversation())
    wanted = st.query_params.get(PARAMETER)
    if wanted and wanted not in (conversation.id, st.session_state.get(_ADDRESS)):
        try:
            growing = _growing(wanted)
            found = growing.conversation if growing else store().open(wanted)
        except StorageFailed as error:
            shell.show_error(error)
            return conversation
        if found:
            conversation = open_here(found)
        else:
            note("The conversation in this link does not exist or was deleted.")
    # Nothing changes under a message that is being sent; the next run tells what other tabs did.
    if pending() is None:
        if st.session_state.pop(_ADOPTED, None):  # the tab that asked goes its own way from here
            conversation = st.session_state[_KEY] = replace(conversation, turns=list(conversation.turns))
        _catch_up(conversation)
    return conversation


def open_here(conversation: Conversation) -> Conversation:
    """Make a conversation this tab's, with its settings and the answer that grows in it.

    For callbacks, and before any control is drawn.
    """
    before, growing = pending(), _growing(conversation.id)
    adopted = before is not None and before is st.session_state.pop(_ADOPTED, None)
    same = growing is not None and before is growing.question
    st.session_state.pop(_PENDING, None)
    st.session_state.pop("chat_editing", None)
    if growing and (answer := growing.question.answer):
        conversation = growing.conversation
        st.session_state[_PENDING] = growing.question
        if adopted or not same:
            st.session_state[_ADOPTED] = growing.question
        apply(ChatSettings.of(answer.lane.request), answer.target.wrapper, answer.target.model_uri)
    elif conversation.shown:
        last = conversation.shown[-1]
        apply(ChatSettings.of(last.request), last.wrapper, last.model_uri)
    st.session_state[_KEY] = conversation
    if not (adopted or same):
        _stop(before)
    return conversation


def new() -> None:
    """Begin a conversation; the one before stays in the list."""
    st.session_state.pop(_NOTES, None)
    open_here(Conversation())


def apply(settings: ChatSettings, wrapper: str | None = None, model_uri: str = "") -> None:
    """Set the page's controls when they are next drawn: Streamlit takes no value for one that is drawn already."""
    st.session_state["chat_apply"] = (settings, wrapper, model_uri)


def name_in_address(conversation: Conversation) -> None:
    """Let the address name a conversation that is saved, or whose answer grows: a reload or a copied link opens it again."""
    saved = conversation.id if conversation.version or _growing(conversation.id) else ""
    if st.query_params.get(PARAMETER, "") != saved:
        st.query_params.from_dict({PARAMETER: saved} if saved else {})
    st.session_state[_ADDRESS] = saved


def ask(question: Pending) -> None:
    """Let the next run of the page send it."""
    before = pending()
    target_choice.keep_target("chat")
    st.session_state[_PENDING] = replace(question)  # a button may be pressed twice
    st.session_state.pop("chat_editing", None)
    st.session_state.pop(_NOTES, None)
    _stop(before)


def say(text: str) -> None:
    """Let the next run of the page send a text as the next turn of the branch that is shown."""
    conversation: Conversation = st.session_state[_KEY]
    growing = pending()
    parent = growing.answer.lane.context.turn_id if growing and growing.answer else conversation.leaf
    ask(Pending(text, parent))


def pending() -> Pending | None:
    """The question that is to be sent, or whose answer grows."""
    found: Pending | None = st.session_state.get(_PENDING)
    return None if found is None or found.answered else found


def stop_answer() -> bool:
    """End the answer that grows and keep what came of it; whether there was one. A question that was not sent is taken back."""
    question = pending()
    if question is None:
        return False
    if question.answer is None:
        st.session_state.pop(_PENDING)
        st.session_state["chat_text"] = question.text  # back in the composer
        return False
    question.answer.stop()
    return True


def _stop(before: Pending | None) -> None:
    """End the answer whose place something else has taken, and say so; last, as another click ends a callback at `note`."""
    if before and before.answer:
        before.answer.stop()
        note(STOPPED)


def keep_growing(conversation: Conversation, question: Pending) -> None:
    """Let this person's other tabs, and this one when it is loaded anew, find the answer that grows."""
    actor = resources.actor()
    if actor.may("keep"):
        resources.kit().growing.keep(actor.name, Growing(conversation, question))
        name_in_address(conversation)


def _growing(conversation_id: str) -> Growing | None:
    return resources.kit().growing.find(resources.actor().name, conversation_id)


def adder(conversation: Conversation, question: Pending) -> Callable[[ChatTurn], None]:
    """What adds a turn when it ends. It may run while the page is being stopped, so it uses nothing of Streamlit."""
    saved = store()

    def add(turn: ChatTurn) -> None:
        cut, prompt = question.continues, turn.request.prompt
        begun = prompt[-1].content if cut and isinstance(prompt, tuple) else ""
        continues = cut.turn_id if cut else None
        conversation.add(replace(turn, parent=question.parent, continues=continues, begun=begun))
        try:
            saved.save(conversation)
        except StorageFailed:  # the next run of the page tries again, and says so
            conversation.unsaved = True
        finally:
            question.answered = True

    return add


def save(conversation: Conversation) -> None:
    """Save what is only in this tab; a failure is drawn, and nothing is lost here."""
    if not conversation.unsaved:
        return
    try:
        brought_back = store().save(conversation)
    except StorageFailed as error:
        shell.show_error(error, "This conversation is not saved. It is still in this tab, and saving will be retried.")
        return
    if brought_back:
        note("Part of this conversation was deleted in another tab. Because you continued here, it is saved again.")


def attempt(act: Callable[[], object]) -> None:
    """Do it, and note why it cannot be done. For callbacks."""
    try:
        act()
    except Phi3KitError as error:
        note(str(error))


def note(text: str) -> None:
    """Show a sentence until the next message."""
    notes: list[str] = st.session_state.setdefault(_NOTES, [])
    if text not in notes:
        notes.append(text)


def show_notes() -> None:
    """Draw what was noted."""
    if notes := st.session_state.get(_NOTES, []):
        st.warning("\n\n".join(map(literal, notes)), icon=":material/info:")


def _catch_up(conversation: Conversation) -> None:
    try:
        elsewhere = store().refresh(conversation)
    except StorageFailed as error:
        shell.show_error(error)
        return
    if elsewhere.deleted:
        note("This conversation was deleted in another tab. It is still here. If you continue, it is saved again.")
    if elsewhere.new_turns:
        what = "1 turn was" if elsewhere.new_turns == 1 else f"{elsewhere.new_turns} turns were"
        note(f"{what} added to this conversation in another tab. Nothing is lost: each is a separate branch.")
        if conversation.leaf:
            conversation.show(conversation.leaf)
    if elsewhere.deleted_turns:
        note(f"{elsewhere.deleted_turns} of this conversation's turns were deleted in another tab.")
    save(conversation)
