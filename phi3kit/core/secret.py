"""Secret: a text that shows itself to nobody; `reveal` alone gives it.

Knows how a text and an address are masked. Knows no setting.
"""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

MASK = "•••"
# In the name of a variable or parameter; the short ones as a whole word of it, as PAT is also in PATH.
_SECRET_NAME = re.compile(
    r"KEY|TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIAL|(?<![A-Z])(PG)?(PASS|PWD|PAT|AUTH|DSN)(?![A-Z])", re.I
)


def is_secret_name(name: str) -> bool:
    """Whether a variable or parameter of this name holds a secret."""
    return name != "PWD" and _SECRET_NAME.search(name) is not None  # PWD is a shell's folder


class Secret:
    """A password, a token, a key. As text it is a mask, whoever prints, formats or logs it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself, for whoever must send it."""
        return self._value

    def __str__(self) -> str:
        return MASK

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


def revealed(secret: Secret | None) -> str | None:
    """The text of one that may be missing."""
    return None if secret is None else secret.reveal()


def fits_a_header(text: str) -> bool:
    """Whether a header can carry a text: ASCII in one line."""
    return text.isascii() and text.isprintable()


class SecretUrl(Secret):
    """An address, perhaps with a password. As text it has masks for what may be secret: user, password, query."""

    __slots__ = ()

    def __str__(self) -> str:
        return self.shown()

    @property
    def hides_something(self) -> bool:
        """Whether its text is not the whole address."""
        return self.shown() != self._value

    @property
    def place(self) -> str:
        """Host and path, without anything that may be secret."""
        try:
            parts = urlsplit(self._value)
        except ValueError:
            return MASK
        return f"{parts.netloc.rpartition('@')[2]}{parts.path}"

    def shown(self, password: str = MASK) -> str:
        """The address with masks. password: what stands for a password."""
        try:
            parts = urlsplit(self._value)
        except ValueError:
            return MASK
        user, at, host = parts.netloc.rpartition("@")
        name, colon, _ = user.partition(":")
        # A name without a password may be a token.
        user = f"{name}:{password}" if colon else MASK if at else ""
        if parts.netloc == "" and not parts.query and not parts.fragment:
            return self._value  # a path: sqlite:////data/mlflow.db
        return parts._replace(
            netloc=f"{user}{at}{host}", query=MASK if parts.query else "", fragment=MASK if parts.fragment else ""
        ).geturl()


def secrets_of_url(url: str) -> Iterator[str]:
    """What of an address is secret: a password, a name that stands alone, values of its query that are named so."""
    try:
        parts = urlsplit(url)
    except ValueError:
        yield url
        return
    user, at, _ = parts.netloc.rpartition("@")
    name, colon, password = user.partition(":")
    if at:
        yield password if colon else name
    for pair in parts.query.split("&"):
        name, _, value = pair.partition("=")
        if is_secret_name(name):
            yield value
