"""Roles: who signed in, by the claims of an identity provider, and the role that lists or a claim give them.

Claims are what the provider signed. A name proves no more than the provider does: lists should name what it lets nobody
choose. Pure: knows no page, no cookie and no HTTP.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from phi3kit.core.errors import SettingInvalid
from phi3kit.core.profiles import Role

LISTED: tuple[Role, ...] = ("admin", "user", "viewer")  # the highest first
_PREFIX = "phi3kit-"  # of a claim's values, where a provider's groups are shared with other programs
_LONGEST_NAME = 200  # characters as they travel in a header
_NAMES = ("email", "preferred_username", "sub")  # the first that can be used


@dataclass(frozen=True)
class RoleRules:
    """Which role whom belongs to. Names as `name_of` gives them."""

    admins: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    viewers: frozenset[str] = frozenset()
    claim: str | None = None  # a claim's name; inside another claim with dots: realm_access.roles
    default: Role = "nobody"  # of who signed in and is on no list

    def role_of(self, name: str, claims: Mapping[str, Any]) -> Role:
        """The highest role that a list or the claim gives this person."""
        lists = {"admin": self.admins, "user": self.users, "viewer": self.viewers}
        claimed = _values(_claim(claims, self.claim)) if self.claim else ()
        for role in LISTED:
            if name in lists[role] or role in claimed or f"{_PREFIX}{role}" in claimed:
                return role
        return self.default


def read_names(text: str) -> frozenset[str]:
    """Names of a comma-separated list."""
    return frozenset(_normal(each.strip()) for each in text.split(",") if each.strip())


def read_default(text: str) -> Role:
    """The role of who is on no list. Raises SettingInvalid."""
    given = text.strip().lower() or "nobody"
    for role in (*LISTED, "nobody"):
        if given == role:
            return role  # type: ignore[return-value]
    raise SettingInvalid(
        "The setting PHI3KIT_DEFAULT_ROLE cannot be used.",
        f"It is {text!r}.",
        f"Set it to {', '.join(LISTED)} or nobody.",
    )


def name_of(claims: Mapping[str, Any]) -> str | None:
    """The name that turns, conversations and limits go by; None when the claims hold none that can be used.

    An address that the provider says it has not verified is what its owner typed: it, and a handle beside it, are passed
    over for the provider's own id.
    """
    unverified = str(claims.get("email_verified", "")).lower() == "false"
    wanted: Iterable[str] = ("sub",) if unverified else _NAMES
    for claim in wanted:
        given = claims.get(claim)
        if isinstance(given, str) and _is_usable(given.strip()):
            return _normal(given.strip())
    return None


def has_expired(claims: Mapping[str, Any], now: float) -> bool:
    """Whether the provider's word has run out; one without an end does not."""
    until = claims.get("exp")
    return until is not None and not (isinstance(until, (int, float)) and not isinstance(until, bool) and now < until)


def _is_usable(name: str) -> bool:
    return bool(name) and name.isprintable() and "," not in name and len(quote(name)) <= _LONGEST_NAME


def _normal(name: str) -> str:
    """Addresses are compared without case, but only plain letters: some other ones become plain ones in lower case."""
    return name.lower() if "@" in name and name.isascii() else name


def _claim(claims: Mapping[str, Any], path: str) -> object:
    if path in claims:  # a claim may be called like an address of the web
        return claims[path]
    found: object = claims
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _values(claim: object) -> tuple[str, ...]:
    given = claim if isinstance(claim, (list, tuple)) else (claim,)
    return tuple(each for each in given if isinstance(each, str))
