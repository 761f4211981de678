"""Sign-in claims: who a person is, and which role they have, from the claims that an identity provider signed.

A person is an issuer's subject: handle and address are what their owner typed, and another issuer's subject is another
person. Lists name the claim that they mean. Knows claims and lists; knows no page, no cookie and no HTTP.
"""

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard
from urllib.parse import quote

from phi3kit.core.profiles import LISTED_ROLES, Role
from phi3kit.core.settings import RoleLists

_PREFIX = "phi3kit-"  # of a claim's values, where a provider's groups are shared with other programs
_GROUPS = "groups"  # the claim of `group:` where no other is named
_LONGEST = 255  # characters of a subject, as OpenID Connect has them; of an address and a group too
_LONGEST_LABEL = 160  # characters as they travel in a header
_MOST_GROUPS = 500
_DIGEST = 12  # hexadecimal digits that tell people of one label apart
_NAME = re.compile(rf".+#[0-9a-f]{{{_DIGEST}}}")
_ADDRESS = re.compile(r"((?![,#@])[!-~])+@((?![,#@])[!-~])+")  # in ASCII: some other letters would become ASCII ones


@dataclass(frozen=True)
class Person:
    """Somebody who signed in."""

    issuer: str
    subject: str  # the issuer's id of them
    email: str | None  # only when the provider has verified it; in lower case
    groups: tuple[str, ...]  # values of the claim that the lists mean

    @property
    def label(self) -> str:
        """As they are shown where room is short; two people may share it."""
        return self.email or f"sub:{self.subject}"

    @property
    def name(self) -> str:
        """For turns, conversations, keys and limits: nobody else's."""
        digest = hashlib.sha256(f"{self.issuer}\0{self.subject}".encode()).hexdigest()[:_DIGEST]
        return f"{self.label}#{digest}"

    def entries(self, lists: RoleLists) -> tuple[str, ...]:
        """What a list may say of this person alone: of several providers each is believed under its own name."""
        issuer = f"{self.issuer}#" if lists.several else ""
        address = (f"email:{issuer}{self.email}",) if self.email else ()
        return (*address, f"sub:{self.issuer}#{self.subject}")


def person_of(claims: Mapping[str, Any], lists: RoleLists) -> Person | None:
    """The person of these claims; None without an issuer and a subject that can be used."""
    issuer, subject = claims.get("iss"), claims.get("sub")
    if not (_is_usable(issuer) and _is_usable(subject)):
        return None
    email = claims.get("email")
    # The provider's word is JSON's true: null, a missing one, 0, "true" and "no" are none.
    verified = claims.get("email_verified") is True and isinstance(email, str) and _ADDRESS.fullmatch(email)
    groups = _values(_claim(claims, lists.claim or _GROUPS))
    person = Person(issuer, subject, email.lower() if verified and isinstance(email, str) else None, groups)
    return person if len(quote(person.label)) <= _LONGEST_LABEL else None


def role_of(person: Person, lists: RoleLists) -> Role:
    """The highest role that a list or the claim of roles gives a person."""
    issuer = f"{person.issuer}#" if lists.several else ""
    own = {*person.entries(lists), *(f"group:{issuer}{each}" for each in person.groups)}
    claimed = person.groups if lists.claim and not lists.several else ()
    named = {"admin": lists.admins, "user": lists.users, "viewer": lists.viewers}
    for role in LISTED_ROLES:
        if own & named[role] or role in claimed or f"{_PREFIX}{role}" in claimed:
            return role
    return lists.default


def is_persons_name(name: str) -> bool:
    """Whether a name has the form of somebody's who signs in; others are names of programs and machines."""
    return _NAME.fullmatch(same_name(name)) is not None


def same_name(given: str) -> str:
    """A user's name as sign-in would write it, whatever its case and width: addresses and digests are in lower case.

    A subject keeps its case: to an issuer two of them are two people.
    """
    name = unicodedata.normalize("NFKC", given).strip()
    label, mark, digest = name.rpartition("#")
    if not mark:
        label, digest = name, ""
    if _ADDRESS.fullmatch(label):
        label = label.lower()
    lower = digest.lower()
    return f"{label}{mark}{lower if _NAME.fullmatch(f'x#{lower}') else digest}"


def has_expired(claims: Mapping[str, Any], now: float) -> bool:
    """Whether the claims have expired; without `exp` they never do."""
    until = claims.get("exp")
    return until is not None and not (isinstance(until, (int, float)) and not isinstance(until, bool) and now < until)


def _is_usable(given: object) -> TypeGuard[str]:
    return isinstance(given, str) and given.isprintable() and given == given.strip() and 0 < len(given) <= _LONGEST


def _claim(claims: Mapping[str, Any], path: str) -> object:
    if path in claims:  # a claim's name may be a URL
        return claims[path]
    found: object = claims
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _values(claim: object) -> tuple[str, ...]:
    given = claim if isinstance(claim, (list, tuple)) else (claim,)
    return tuple(each for each in given[:_MOST_GROUPS] if _is_usable(each))
