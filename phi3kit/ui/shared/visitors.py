"""Visitors: who is at this browser tab: the owner of the machine, somebody who signed in, or a stranger.

Knows sessions and cookies. Knows no page.
"""

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.web.server.starlette.starlette_server_config import USER_COOKIE_NAME
from streamlit.web.server.starlette.starlette_websocket import _get_signed_cookie_with_chunks

from phi3kit.access.actor import Actor
from phi3kit.access.people import People
from phi3kit.access.sign_in_claims import Person, has_expired, person_of, role_of
from phi3kit.core.errors import StorageFailed
from phi3kit.core.profiles import Role
from phi3kit.core.settings import Settings

_COOKIE_S = 31 * 86_400.0  # Streamlit takes no older cookie
_EVERY_S = 1.0  # between two looks at what was ended elsewhere

# Of this process, and not in Streamlit's caches, which one message of any browser clears.
_guard = threading.Lock()
_noted: dict[str, tuple[Person, Role]] = {}  # what was kept of people, by name
_ended: dict[str, float] = {}  # ended sign-ins, and until when their cookies would count (seconds since the epoch)
_read_at: dict[Path, float] = {}  # when what was ended was read last, by data folder (monotonic seconds)


def actor(settings: Settings) -> Actor:
    """The person at this tab, with the role that the app's settings give them."""
    if settings.profile == "local":
        return Actor(settings.user, "admin")
    if settings.profile == "public":
        return Actor(_guest(), "visitor")
    found = person(settings)
    if found is None:
        return Actor("", "nobody")
    role = role_of(found, settings.role_lists)
    _note(found, role, settings)
    return Actor(found.name, role)


def person(settings: Settings) -> Person | None:
    """Who signed in at this tab; None for nobody."""
    return person_of(_counting(_signed(), settings), settings.role_lists)


def _note(found: Person, role: Role, settings: Settings) -> None:
    """Keep the role for this person's keys, when it is not what was kept last."""
    if _noted.get(found.name) != (found, role):
        with suppress(StorageFailed):  # tried again with the next run; until then keys act in the role before
            People(settings.home).note(found, role)
            _noted[found.name] = (found, role)


def forget() -> None:
    """Know of nobody any more; what is in the data folder stays."""
    with _guard:
        _noted.clear()
        _ended.clear()
        _read_at.clear()


def has_session_ended(settings: Settings) -> bool:
    """Whether somebody had signed in at this tab, and has to do it again. Raises StorageFailed."""
    return _signed().get("is_logged_in") is True and not _counting(_signed(), settings)


def sign_out(settings: Settings) -> None:
    """End this tab's sign-in in every tab that shares it; a kept copy of its cookie opens nothing either."""
    end(_signed(), settings)
    st.logout()


def end(signed: Mapping[str, Any], settings: Settings) -> None:
    """Let the sign-in with these claims open nothing any more, here and in every app on the data folder."""
    key, now = _key(signed), time.time()
    with _guard:
        for old in [old for old, until in _ended.items() if until < now]:
            del _ended[old]
        _ended[key] = now + _COOKIE_S
    with suppress(StorageFailed):  # until this process ends it holds all the same
        People(settings.home).end_sign_in(key, now + _COOKIE_S)


def person_signed_in(signed: Mapping[str, Any], settings: Settings) -> Person | None:
    """Whose sign-in these claims are, as a session of Streamlit has them; None for one that does not count (any more).

    Raises StorageFailed.
    """
    return person_of(_counting(_trusted(signed), settings), settings.role_lists)


def claims_of_cookies(cookies: Mapping[str, str]) -> Mapping[str, Any]:
    """The claims of the sign-in that a request's cookies tell, as Streamlit checks them; empty without one."""
    try:
        content = _get_signed_cookie_with_chunks(dict(cookies), USER_COOKIE_NAME)
        found = json.loads(content) if content else {}
    except ValueError:  # Streamlit lets nobody in by it either
        return {}
    return found if isinstance(found, dict) else {}


def _counting(signed: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
    """The claims; empty when nobody signed in, or when they have expired or were ended."""
    counts = signed.get("is_logged_in") is True and not has_expired(signed, time.time())
    return signed if counts and not _is_ended(_key(signed), settings) else {}


def _is_ended(key: str, settings: Settings) -> bool:
    """Whether a sign-in was ended: here, or a second ago by another app on the same data folder."""
    with _guard:
        now = time.monotonic()
        if now - _read_at.get(settings.home, -_EVERY_S) >= _EVERY_S:
            _ended.update(People(settings.home).ended_sign_ins())
            _read_at[settings.home] = now
        return key in _ended


def _signed() -> Mapping[str, Any]:
    """The cookie as Streamlit has checked it."""
    return _trusted(st.user.to_dict())


def _trusted(signed: Mapping[str, Any]) -> Mapping[str, Any]:
    """Empty where a header could have set it."""
    return {} if st.get_option("server.trustedUserHeaders") else signed


def _key(signed: Mapping[str, Any]) -> str:
    """What identifies one sign-in. Other claims are left out: a second cookie changes what Streamlit adds."""
    one = [signed.get(name) for name in ("provider", "iss", "sub", "iat", "exp", "nonce")]
    return hashlib.sha256(json.dumps(one, default=str).encode()).hexdigest()


def _guest() -> str:
    """A name that lasts as long as the tab."""
    if "guest" not in st.session_state:
        st.session_state["guest"] = f"guest-{secrets.token_hex(6)}"
    return str(st.session_state["guest"])
