"""Chat template: the rule that turns messages into a raw prompt, as text and as token ids.

Knows Phi-3's special tokens and their places. Knows no model and has no tokenizer of its own.
"""

from collections.abc import Callable, Sequence

from phi3kit.core.records import Message

END = "<|end|>"
ASSISTANT = "<|assistant|>"
SPECIAL_TOKENS = ("<|system|>", "<|user|>", ASSISTANT, END, "<|endoftext|>")

# Of Phi-3-mini-4k-instruct's tokenizer_config.json; the embedded model has the same template.
JINJA_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)

# What a tokenizer strips after a special token (rstrip): Unicode's White_Space, which is not Python's str.isspace.
_WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"

Encode = Callable[[str], list[int]]


def raw_prompt(messages: Sequence[Message]) -> str:
    """The text that a model reads for `messages`, up to the beginning of its answer.

    A special token inside a message becomes structure here; `prompt_ids` keeps it text.
    """
    return "".join(f"<|{message.role}|>\n{message.content}{END}\n" for message in messages) + f"{ASSISTANT}\n"


def prompt_ids(messages: Sequence[Message], encode_raw: Encode, encode_text: Encode) -> list[int]:
    """Token ids of `messages`, shape (prompt_tokens,), up to the beginning of the answer.

    encode_raw: reads special tokens as structure. encode_text: reads them as plain text, so that no message
    can close the system turn. Equal to encode_raw(raw_prompt(messages)) when no message contains a special token.
    """
    # Phi-3's special tokens swallow the white space after them; those of a fine-tune may not.
    swallows = encode_raw(ASSISTANT + "\n") == encode_raw(ASSISTANT)
    ids: list[int] = []
    for message in messages:
        content = message.content.lstrip(_WHITE_SPACE) if swallows else message.content
        ids += encode_raw(f"<|{message.role}|>\n") + encode_text(content) + encode_raw(END + "\n")
    return ids + encode_raw(ASSISTANT + "\n")


EXAMPLE = raw_prompt([Message("user", "What is the capital of Spain?")])
# The chapter's own raw prompt: no newlines, which Phi-3's tokenizer would swallow anyway.
CHAPTER_EXAMPLE = "<|system|>You are a stand-up comedian.<|end|><|user|>Tell me a joke about atom<|end|><|assistant|>"
