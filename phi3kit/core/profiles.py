"""Profiles: for whom an app is open, and the roles that people have in it.

`local`: one's own machine, everything is on. `team`: people who sign in, each with a role. `public`: strangers.
Knows names. Knows not what a role may do.
"""

from typing import Literal

Profile = Literal["local", "team", "public"]
PROFILES: tuple[Profile, ...] = ("local", "team", "public")

Role = Literal["admin", "user", "viewer", "visitor", "nobody"]
LISTED_ROLES: tuple[Role, ...] = ("admin", "user", "viewer")  # that people are given by lists or claims; highest first
