"""Loopback: which hosts are this machine itself, and that no proxy stands before them.

Knows names, variables and who may listen where. Opens no connection.
"""

import ipaddress
from collections.abc import MutableMapping

from phi3kit.core.errors import SettingInvalid
from phi3kit.core.profiles import Profile

_NAMES = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Whether only this machine itself reaches the host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_listening(host: str | None, profile: Profile) -> None:
    """Let something listen there, None: on every address. Raises SettingInvalid beyond this machine in the profile local.

    In that profile whoever comes is the machine's own user, an admin.
    """
    if profile == "local" and not (host and is_loopback(host)):
        raise SettingInvalid(
            what=f"The profile local does not listen on {host or 'every address'}.",
            why="Anyone who reaches it there could do everything, because nobody signs in.",
            next_step="Listen on 127.0.0.1, or set PHI3KIT_PROFILE to team or public (also in a container).",
        )


def ask_directly(environment: MutableMapping[str, str]) -> None:
    """Name this machine in NO_PROXY, for libraries that read the environment: MLflow would send its requests to the proxy."""
    for variable in ("NO_PROXY", "no_proxy"):  # libraries read the one or the other
        named = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
        hosts = [each.strip() for each in named.split(",") if each.strip()]
        environment[variable] = ",".join([*hosts, *(name for name in _NAMES if name not in hosts)])
