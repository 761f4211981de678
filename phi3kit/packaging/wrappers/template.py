"""Template: how a model's own chat template differs from Phi-3's, which phi3kit's workers apply.

Renders somebody else's template: only the trial process calls it (packaging/trial.py).
"""

from dataclasses import asdict
from pathlib import Path

from phi3kit.core.errors import first_line
from phi3kit.core.records import Message
from phi3kit.formats import chat_template

_MOST, _SHOWN = 10_000, 300  # characters of a rendered prompt that are cut into tokens; that are shown


def template_difference(folder: Path) -> str | None:
    """How the model's own chat template differs from the one that phi3kit's workers apply; None when it does not."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not tokenizer.chat_template:
        return "It has no chat template of its own; phi3kit's workers apply Phi-3's."
    system, user, assistant = Message("system", "Be brief."), Message("user", "Hello"), Message("assistant", "Hi")
    for said, messages in (
        ("messages", [user]),
        ("a system message", [system, user]),
        ("an earlier answer", [user, assistant, user]),
    ):
        rendered = chat_template.raw_prompt(messages)
        try:
            own = tokenizer.apply_chat_template(
                [asdict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # some templates refuse a role
            return f"Its own chat template refuses {said}: {first_line(error)} phi3kit's workers apply Phi-3's."
        if len(own) > _MOST or tokenizer.encode(own) != tokenizer.encode(rendered):
            return (
                f"Its own chat template renders {said} differently from Phi-3's, which phi3kit's workers "
                f"apply: {own[:_SHOWN]!r} vs. {rendered!r}."
            )
    return None
