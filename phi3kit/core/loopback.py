"""Loopback: which hosts are this machine itself, and that no proxy stands before them.

Knows names and variables. Opens no connection.
"""

import ipaddress
from collections.abc import MutableMapping

_NAMES = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Whether only this machine itself reaches the host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def ask_directly(environment: MutableMapping[str, str]) -> None:
    """Name this machine in NO_PROXY, for libraries that read the environment: MLflow would send its requests to the proxy."""
    for variable in ("NO_PROXY", "no_proxy"):  # libraries read the one or the other
        named = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
        hosts = [each.strip() for each in named.split(",") if each.strip()]
        environment[variable] = ",".join([*hosts, *(name for name in _NAMES if name not in hosts)])
