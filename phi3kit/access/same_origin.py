"""Same origin: whether a request names this server, and comes from one of its own pages.

A web page can make its reader's browser ask servers that only the reader reaches: across origins, or under the page's own
name once that leads to the server's address (DNS rebinding). Host tells the second, Origin and Sec-Fetch-Site the first.
An address cannot be rebound, so only names are listed.
Knows headers and characters of paths. Knows no route, no key and no response.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from phi3kit.core.errors import SettingInvalid

Headers = Iterable[tuple[bytes, bytes]]  # as ASGI has them: names in lower case

_AUTHORITY = re.compile(r"(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#@\\\s]+)", re.ASCII)
_PAGE = re.compile(rf"{_ORIGIN.pattern}/", re.ASCII)
_ENTRY = re.compile(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.ASCII)
_USUAL_PORTS = {"http": "80", "https": "443"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LONGEST_SHOWN = 100  # characters of a header in a refusal


@dataclass(frozen=True)
class ServedNames:
    """The names under which people reach a server. localhost and addresses need no listing."""

    names: frozenset[str]  # example.com, *.example.com, or * for any

    @classmethod
    def read(cls, entries: Iterable[str]) -> "ServedNames":
        """Names without a port. Raises SettingInvalid."""
        names = frozenset(each.strip().lower().rstrip(".") for each in entries)
        for name in names:
            if not _ENTRY.fullmatch(name):
                raise SettingInvalid(
                    "The setting PHI3KIT_HOST_NAMES cannot be used.",
                    f"{name!r} is not a host name.",
                    "Write names without a port, for example: app.lab.example,*.lab.example",
                )
        return cls(names)

    def refusal(self, headers: Headers) -> str | None:
        """Why a request is not answered, as its sender may read it; None for one that is."""
        given = [(name, value.decode("latin-1")) for name, value in headers]
        hosts, origins = ([value for name, value in given if name == wanted] for wanted in (b"host", b"origin"))
        host = _AUTHORITY.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
        if host is None or not self._is_served(host["host"]):
            return (
                f"This server does not answer under the name {_shown(hosts)}. "
                "Whoever runs it can list the name in PHI3KIT_HOST_NAMES."
            )
        if origins:
            own = len(origins) == 1 and self._is_own(origins[0].lower(), host)
            return None if own else f"This server does not answer pages of {_shown(origins)}."
        fetch = dict(given)
        # No Origin comes with a page's images, scripts and frames of other sites. A link to follow is no such request.
        if fetch.get(b"sec-fetch-site") in ("cross-site", "same-site") and fetch.get(b"sec-fetch-mode") != "navigate":
            return "This server does not answer pages of other sites."
        return None

    def _is_own(self, origin: str, host: re.Match[str]) -> bool:
        """Whether an origin is the one that the request was sent to, or one of the listed names."""
        found = _ORIGIN.fullmatch(origin)
        authority = found and _AUTHORITY.fullmatch(found["authority"])
        if not found or not authority:
            return False
        usual = _USUAL_PORTS[found["scheme"]]
        if authority["host"] == host["host"] and (authority["port"] or usual) == (host["port"] or usual):
            return True
        # Behind a proxy the request may have another Host than the page: then the page's name must be a listed one.
        return (authority["port"] or usual) == usual and self._is_listed(authority["host"])

    def _is_served(self, host: str) -> bool:
        name = host.rstrip(".")
        return name == "localhost" or _is_address(name) or "*" in self.names or self._is_listed(name)

    def _is_listed(self, host: str) -> bool:
        name = host.rstrip(".")
        return name in self.names or any(each.startswith("*.") and name.endswith(each[1:]) for each in self.names)


def is_plain(path: str) -> bool:
    """Whether a decoded path has no control character: rules of paths and a router's pattern may differ about a line's end."""
    return not _CONTROL.search(path)


def is_own_click(headers: Headers) -> bool:
    """Whether a page of this very server led a tab to a request, and no link of elsewhere. After `ServedNames.refusal`.

    Browsers send the Sec-Fetch headers by TLS and to this machine; otherwise Referer tells the page alone. An image, a
    frame or a script of one's own page is no click.
    """
    given = {name: value.decode("latin-1").lower() for name, value in headers}
    sent = [given.get(name) for name in (b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest")]
    if any(value is not None for value in sent):
        return sent == ["same-origin", "navigate", "document"]
    page, host = _PAGE.match(given.get(b"referer", "")), given.get(b"host")
    return page is not None and page["authority"] == host


def _is_address(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _shown(values: list[str]) -> str:
    return ascii(" ".join(values)[:_LONGEST_SHOWN])
