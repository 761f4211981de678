"""Actor: a person with a name, for which their turns count, and a role.

Knows how a child process is told who acts. Knows neither pages nor how a person signed in.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from phi3kit.access.roles import Act, may, refusal
from phi3kit.core.profiles import Role
from phi3kit.core.settings import Settings

_NAME_VARIABLE = "PHI3KIT_USER"
_ROLE_VARIABLE = "PHI3KIT_ACTING_ROLE"


@dataclass(frozen=True)
class Actor:
    """A person in a role."""

    name: str
    role: Role

    def may(self, act: Act) -> bool:
        """Whether the role allows it."""
        return may(self.role, act)

    def require(self, act: Act) -> None:
        """Let it happen. Raises NotAllowed."""
        if not self.may(act):
            raise refusal(self.role, act)

    def environment(self) -> dict[str, str]:
        """Variables that tell a child process for whom it works."""
        return {_NAME_VARIABLE: self.name, _ROLE_VARIABLE: self.role}


def process_actor(settings: Settings, environment: Mapping[str, str] | None = None) -> Actor:
    """The person for whom this process works: the parent's, or the admin who started it in a terminal.

    In the profile public a visitor, also in a terminal. environment: this process's own when None.
    """
    if settings.profile == "public":
        return Actor(settings.user, "visitor")
    given = (os.environ if environment is None else environment).get(_ROLE_VARIABLE) or "admin"
    return Actor(settings.user, given if given in get_args(Role) else "nobody")  # type: ignore[arg-type]
