"""Roles: what each role may do.

Knows names of acts. Knows no page, no file, and not how a person got a role.
"""

from typing import Literal

from phi3kit.core.errors import NotAllowed
from phi3kit.core.profiles import Role

Act = Literal[
    "talk", "build", "build_any", "batch", "evaluate", "invoke", "register", "keep", "keys", "read",
    "build_folder", "connect", "delete", "serve", "watch", "administer",
]  # fmt: skip


_USER: tuple[Act, ...] = (
    "talk", "build", "build_any", "batch", "evaluate", "invoke", "register", "keep", "keys", "read",
)  # fmt: skip
_MAY: dict[Role, tuple[Act, ...]] = {
    "admin": (*_USER, "build_folder", "connect", "delete", "serve", "watch", "administer"),
    "user": _USER,
    "viewer": ("watch", "read"),
    "visitor": ("talk", "build"),  # a stranger: the embedded model, and nothing else
    "nobody": (),  # has not signed in
}
# As they follow "You may not".
_WORDS: dict[Act, str] = {
    "talk": "ask a model",
    "build": "build models",
    "build_any": "build from another source than the embedded model",
    "build_folder": "build from a folder of the server",
    "batch": "run a batch",
    "evaluate": "evaluate a model",
    "invoke": "send payloads to /invocations",
    "register": "change the Model Registry",
    "keep": "keep conversations and presets on the server",
    "keys": "create or revoke API keys",
    "read": "read conversations that others shared",
    "connect": "change the remote endpoints",
    "delete": "delete models or versions",
    "serve": "start or stop servers and workers, or bundle a model",
    "watch": "see what others used",
    "administer": "change what belongs to others",
}
_OWN_MACHINE = "Run phi3kit on your own machine, where everything is allowed."


def may(role: Role, act: Act) -> bool:
    """Whether the role allows it."""
    return act in _MAY[role]


def rights(role: Role) -> tuple[list[str], list[str]]:
    """The acts that the role allows, and those that it does not, in words."""
    allowed = [words for act, words in _WORDS.items() if may(role, act)]
    return allowed, [words for act, words in _WORDS.items() if not may(role, act)]


def refusal(role: Role, act: Act) -> NotAllowed:
    """Why the role does not allow it, and which role does."""
    what = f"You may not {_WORDS[act]} here."
    if role == "visitor":
        return NotAllowed(what, "This is a public demo of the embedded (small) model (profile public).", _OWN_MACHINE)
    if role == "nobody":
        return NotAllowed(what, "You have not signed in.", "Sign in, then do it again.")
    able = next(each for each in ("user", "admin") if may(each, act))  # type: ignore[arg-type]
    return NotAllowed(what, f"Your role is {role}; this needs {able}.", "Ask whoever runs this app for that role.")
