"""Sign-in claims: the name and the role of a person, from the claims that an identity provider signed.

A name is as good as the provider: lists should name what it lets nobody choose. Knows claims and lists; knows no page,
no cookie and no HTTP.
"""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from phi3kit.core.profiles import LISTED_ROLES, Role
from phi3kit.core.settings import RoleLists

_PREFIX = "phi3kit-"  # of a claim's values, where a provider's groups are shared with other programs
_LONGEST_NAME = 200  # characters as they travel in a header
_NAMES = ("email", "preferred_username", "sub")  # the first that can be used


def role_of(name: str, claims: Mapping[str, Any], lists: RoleLists) -> Role:
    """The highest role that a list or the claim gives a person. name: by `name_of`."""
    named = {"admin": lists.admins, "user": lists.users, "viewer": lists.viewers}
    claimed = _values(_claim(claims, lists.claim)) if lists.claim else ()
    for role in LISTED_ROLES:
        if name in map(_normal, named[role]) or role in claimed or f"{_PREFIX}{role}" in claimed:
            return role
    return lists.default


def name_of(claims: Mapping[str, Any]) -> str | None:
    """The name for turns, conversations and limits; None when no claim can be used.

    With an address that the provider has not verified it is the provider's own id: address and handle are what their
    owner typed.
    """
    unverified = str(claims.get("email_verified", "")).lower() == "false"
    wanted: Iterable[str] = ("sub",) if unverified else _NAMES
    for claim in wanted:
        given = claims.get(claim)
        if isinstance(given, str) and _is_usable(given.strip()):
            return _normal(given.strip())
    return None


def has_expired(claims: Mapping[str, Any], now: float) -> bool:
    """Whether the claims have expired; without `exp` they never do."""
    until = claims.get("exp")
    return until is not None and not (isinstance(until, (int, float)) and not isinstance(until, bool) and now < until)


def _is_usable(name: str) -> bool:
    return bool(name) and name.isprintable() and "," not in name and len(quote(name)) <= _LONGEST_NAME


def _normal(name: str) -> str:
    """Addresses in lower case, but only in ASCII: some other letters would become ASCII letters."""
    return name.lower() if "@" in name and name.isascii() else name


def _claim(claims: Mapping[str, Any], path: str) -> object:
    if path in claims:  # a claim's name may be a URL
        return claims[path]
    found: object = claims
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _values(claim: object) -> tuple[str, ...]:
    given = claim if isinstance(claim, (list, tuple)) else (claim,)
    return tuple(each for each in given if isinstance(each, str))
