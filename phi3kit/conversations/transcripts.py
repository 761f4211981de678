"""Transcripts: a branch of a conversation as Markdown, as a web page, and as OpenAI messages, which are imported too.

Escapes messages and answers: nothing that somebody wrote becomes a tag or a headline. Draws nothing.
"""

import html
import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, tzinfo
from typing import Any

from pydantic import ValidationError

from phi3kit.conversations.chat_settings import ChatSettings
from phi3kit.conversations.conversation import ChatTurn, Conversation, messages_of
from phi3kit.core.errors import RequestInvalid
from phi3kit.core.records import Message
from phi3kit.endpoints.records import Answer
from phi3kit.formats import safe_markdown
from phi3kit.formats.openai_schema import ChatMessage, error_body

MAX_IMPORT_BYTES = 5_000_000
MAX_IMPORT_MESSAGES = 2_000
# OpenAI's own fields of a message, which may be there when they are empty.
_OPTIONAL = ("name", "refusal", "annotations", "audio", "function_call", "tool_calls")

_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;overflow-wrap:anywhere}
article{margin:1rem 0;padding:.75rem 1rem;border:1px solid #8885;border-radius:.6rem}
article.user{background:#8881}
pre{font:inherit;white-space:pre-wrap;margin:.25rem 0}
b{font-size:.85rem}
footer,article p{font-size:.85rem;opacity:.75;margin:.5rem 0 0}
"""


def to_openai(turns: Sequence[ChatTurn], system_prompt: str) -> str:
    """JSON: {"messages": [...]}, as the next request of this branch would begin."""
    messages = [asdict(each) for each in messages_of(turns, system_prompt)]
    return json.dumps({"messages": messages}, ensure_ascii=False, indent=2) + "\n"


def to_markdown(title: str, turns: Sequence[ChatTurn], system_prompt: str, zone: tzinfo = UTC) -> str:
    """Every message as a quotation: a person's as plain text, the model's as Markdown."""
    parts = [f"# {_one_line(title)}"]
    if system_prompt.strip():
        parts.append(f"**System**\n\n{_quoted(_fenced(system_prompt))}")
    for turn in turns:
        if turn.text:
            parts.append(f"**User** · {_time(turn, zone)}\n\n{_quoted(_fenced(turn.text))}")
        if turn.answer_text:
            answer = _quoted(safe_markdown.for_files(turn.answer_text))
            parts.append(f"**Assistant** · {_cost(turn)}\n\n{answer}")
        if turn.error:
            parts.append(f"*{_one_line(str(turn.error))}*")
    return "\n\n".join(parts) + "\n"


def to_html(title: str, turns: Sequence[ChatTurn], system_prompt: str, zone: tzinfo = UTC) -> str:
    """A self-contained file: no script, nothing loaded, every text escaped."""
    articles = [_article("system", "System", system_prompt)] if system_prompt.strip() else []
    for turn in turns:
        if turn.text:
            articles.append(_article("user", f"User · {_time(turn, zone)}", turn.text))
        if turn.answer_text or turn.error:
            cost = _cost(turn) + (f" · {turn.error}" if turn.error else "")
            articles.append(_article("assistant", "Assistant", turn.answer_text, cost))
    name = html.escape(title)
    return f"""<!doctype html>
<html>
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{name}</h1>
{"".join(articles)}<footer>Made with phi3kit</footer>
</body>
</html>
"""


def file_name(title: str, ending: str) -> str:
    """A file name for a transcript: the title's letters and digits, of any alphabet."""
    words = re.sub(r"\W+", "-", title, flags=re.UNICODE).strip("-_")[:50].strip("-_")
    return f"{words or 'chat'}.{ending}"


def from_openai(content: bytes) -> tuple[Conversation, str]:
    """A conversation from OpenAI messages, and its system prompt.

    content: JSON, a list of messages or an object with `messages`, such as to_openai wrote or a request's body.
    Raises RequestInvalid.
    """
    return from_messages(_messages(content))


def from_messages(messages: Sequence[Message]) -> tuple[Conversation, str]:
    """A conversation of these messages, and its system prompt. Raises RequestInvalid."""
    late = next((index for index, each in enumerate(messages) if each.role == "system" and index), None)
    if late is not None:
        raise _refused(f"messages[{late}] is a system message; only the first message may be one.")
    if all(message.role == "system" for message in messages):
        raise _refused("It has no user or assistant message.")
    system = messages[0].content if messages[0].role == "system" else ""
    conversation = Conversation()
    unanswered = ""
    for message in messages:
        if message.role == "assistant":
            _add(conversation, unanswered, message.content, system)
            unanswered = ""
        elif message.role == "user":
            if unanswered:
                _add(conversation, unanswered, "", system)
            unanswered = message.content
    if unanswered:
        _add(conversation, unanswered, "", system)
    return conversation, system


def _add(conversation: Conversation, text: str, answer: str, system_prompt: str) -> None:
    prompt = conversation.messages(system_prompt, text, conversation.leaf)
    conversation.add(
        ChatTurn(
            text=text,
            answer=Answer(answer),
            request=ChatSettings().request(prompt),
            model_uri="",
            wrapper=None,
            turn_id=uuid.uuid4().hex,
            settled=True,
            parent=conversation.leaf,
        )
    )


def _messages(content: bytes) -> list[Message]:
    if len(content) > MAX_IMPORT_BYTES:
        raise _refused(f"It has {len(content):,} bytes; the limit is {MAX_IMPORT_BYTES:,}.")
    try:
        found = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _refused("It is not JSON in UTF-8.") from error
    given = found.get("messages") if isinstance(found, dict) else found
    if not isinstance(given, list) or not given:
        raise _refused('It has no list of messages: [{"role": "user", "content": "…"}, …], alone or as "messages".')
    if len(given) > MAX_IMPORT_MESSAGES:
        raise _refused(f"It has {len(given):,} messages; the limit is {MAX_IMPORT_MESSAGES:,}.")
    return [_message(index, each) for index, each in enumerate(given)]


def _message(index: int, given: Any) -> Message:
    if isinstance(given, dict):
        given = {name: value for name, value in given.items() if value or name not in _OPTIONAL}
    try:
        message = ChatMessage.model_validate(given).as_message()
    except ValidationError as error:
        _, body = error_body(error)
        raise _refused(f"messages[{index}]: {body['error']['message']}") from error
    if not message.content.strip() and message.role != "system":
        raise _refused(f"messages[{index}] has no text.")
    return message


def _refused(why: str) -> RequestInvalid:
    return RequestInvalid(
        what="This file cannot be opened as a conversation.",
        why=why,
        next_step="Import OpenAI messages, such as the JSON file from Share.",
    )


def _article(kind: str, who: str, text: str, below: str = "") -> str:
    small = f"<p>{html.escape(below)}</p>" if below else ""
    return f'<article class="{kind}"><b>{html.escape(who)}</b><pre>\n{html.escape(text)}</pre>{small}</article>\n'


def _time(turn: ChatTurn, zone: tzinfo) -> str:
    return f"{datetime.fromtimestamp(turn.at, zone):%Y-%m-%d %H:%M %Z}"


def _cost(turn: ChatTurn) -> str:
    """Which wrapper answered, and how many tokens that took."""
    if turn.imported:
        return "imported"
    answer = turn.answer
    tokens = f"{answer.prompt_tokens:,} + {answer.completion_tokens:,} = {answer.total_tokens:,} tokens"
    return f"{turn.wrapper} · {tokens} · {answer.finish_reason}"


def _quoted(text: str) -> str:
    """A quotation in which each line begins and ends as it did: what was code stays code, and nothing else becomes it.

    A tab reaches less far behind the quotation's sign, and Unicode's white space behind a fence makes it none.
    """
    lines = re.split(r"\r\n|\r|\n", text)
    spaced = (re.sub(r"^[ \t]+", lambda found: found[0].expandtabs(4), line) for line in lines)
    return "\n".join(f"> {line}".rstrip(" \t") for line in spaced)


def _fenced(text: str) -> str:
    """Text in a fence longer than any run of its backticks."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _one_line(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>#|~])", r"\\\1", " ".join(text.split()))
