"""Hosts: where a request of this app may go, judged by the address that it would reach.

A name's owner decides where it leads, anew with each look-up. So a listed name opens addresses of the public internet
only; the own machine and private networks are reached where their addresses are listed.
Knows addresses. Resolves nothing, connects to nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from phi3kit.core.errors import SettingInvalid

_LOCALHOST = ("127.0.0.0/8", "::1/128")
_CARRIES_IPV4 = tuple(ip_network(each) for each in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "::/96"))


@dataclass(frozen=True)
class AllowedHosts:
    """Hosts, addresses and networks, each with a port or without one."""

    names: frozenset[tuple[str, int | None]]
    networks: tuple[tuple[IPv4Network | IPv6Network, int | None], ...]

    @classmethod
    def read(cls, entries: Iterable[str]) -> "AllowedHosts":
        """Entries such as api.example.com, lab.example.com:8000, 127.0.0.1:11434, 10.0.0.0/8, [::1]:8000, localhost.

        Raises SettingInvalid.
        """
        names: set[tuple[str, int | None]] = set()
        networks: list[tuple[IPv4Network | IPv6Network, int | None]] = []
        for entry in entries:
            host, port = _split(entry)
            if host == "localhost":
                networks += [(ip_network(each), port) for each in _LOCALHOST]
                continue
            try:
                networks.append((ip_network(host, strict=False), port))
            except ValueError:
                if not host or any(char not in "abcdefghijklmnopqrstuvwxyz0123456789-._" for char in host):
                    raise _unreadable(entry) from None
                names.add((host.rstrip("."), port))
        return cls(frozenset(names), tuple(networks))

    def allows(self, host: str, port: int, address: str) -> bool:
        """Whether a connection to `address`, to which `host` resolved, may be made."""
        reached = _plain(ip_address(address.partition("%")[0]))
        if any(reached in network and of in (None, port) for network, of in self.networks):
            return True
        name = host.lower().rstrip(".")
        listed = (name, None) in self.names or (name, port) in self.names
        return listed and _is_public(reached)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    return address.is_global and not address.is_multicast and not any(address in network for network in _CARRIES_IPV4)


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address of an IPv4-mapped IPv6 one."""
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def _split(entry: str) -> tuple[str, int | None]:
    """Host and port; IPv6 with a port is in brackets."""
    host, port = entry, ""
    if entry.startswith("["):
        host, _, port = entry[1:].partition("]")
        port = port.removeprefix(":")
    elif entry.count(":") == 1:
        host, _, port = entry.partition(":")
        if not port:
            raise _unreadable(entry)
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65_536):
        raise _unreadable(entry)
    return host, int(port) if port else None


def _unreadable(entry: str) -> SettingInvalid:
    return SettingInvalid(
        "The setting PHI3KIT_ALLOWED_HOSTS cannot be used.",
        f"{entry!r} is not a host, an address or a network.",
        "Write for example: api.example.com,127.0.0.1:11434,10.0.0.0/8",
    )
