"""Settings: one frozen record, read at the edge from environment variables and Streamlit secrets.

Knows names, defaults and units. Opens nothing.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from phi3kit.core.errors import SettingInvalid
from phi3kit.core.limits import DEFAULTS, VARIABLES, Limits
from phi3kit.core.profiles import LISTED_ROLES, PROFILES, Profile, Role
from phi3kit.core.secret import Secret, SecretUrl, fits_a_header

_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel carries the app (streamlit_app.py, pages, .streamlit) within the package; a checkout has it beside.
INSTALLED = (_PACKAGE / "app").is_dir()
PROJECT_ROOT = _PACKAGE.parent  # where Python finds phi3kit: the checkout, or site-packages
APP_FOLDER = _PACKAGE / "app" if INSTALLED else PROJECT_ROOT

Word = TypeVar("Word", bound=str)

# Strangers are let in anyway, and Community Cloud names itself to the app as it likes; its pages are of these names.
_PUBLIC_HOST_NAMES = ("*", "*.streamlit.app", "share.streamlit.io")

_ON, _OFF = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True)
class RoleLists:
    """The people of each role, each as `email:`, `sub:ISSUER#SUBJECT` or `group:`, and the claim that gives a role."""

    admins: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    viewers: frozenset[str] = frozenset()
    claim: str | None = None  # a claim's name; inside another claim with dots: realm_access.roles
    default: Role = "nobody"  # of a person who signed in and is on no list
    several: bool = False  # providers sign people in: an entry counts only with its issuer, and the claim gives no role


@dataclass(frozen=True)
class Settings:
    """Everything that can be set; docs/settings.md describes the variables."""

    home: Path  # the data folder; nothing is written elsewhere
    tracking_uri: SecretUrl
    api_key: Secret | None  # what `phi3kit serve` asks of its callers
    idle_seconds: int  # a worker without a request for so long ends itself
    start_seconds: int  # a worker that is not ready after so long has failed
    max_queue: int  # turns that may wait at one worker
    threads: int | None  # that compute one step; None: as many as the process has CPUs
    kv_budget_mb: int | None  # memory of a worker's conversations; None: two whole contexts, or a third of what is free
    shared_system: str | None  # a system message whose keys and values users of a worker share
    user: str  # the name of whoever uses this machine without signing in
    log_text: bool  # whether prompts and answers are kept and logged, or only what they cost
    profile: Profile  # for whom the app is open
    role_lists: RoleLists  # who gets which role in the profile team
    host_names: tuple[str, ...]  # under which people reach the app and `phi3kit serve`, beside localhost and addresses
    limits: Limits
    allowed_hosts: tuple[str, ...] | None  # where remote endpoints may lie: hosts, addresses, networks; None: anywhere
    mlflow_url: str  # where MLflow's own pages are
    tracking_username: str | None  # for a tracking server that asks
    tracking_password: Secret | None
    tracking_token: Secret | None
    hub_endpoint: SecretUrl  # where Hugging Face's HTTP is spoken
    hub_token: Secret | None  # opens gated repositories; never logged

    @property
    def own_store(self) -> bool:
        """Whether the tracking store is the SQLite file in the data folder."""
        return self.tracking_uri == SecretUrl(f"sqlite:///{self.home / 'mlflow.db'}")

    @property
    def store_name(self) -> str:
        """The store as the pages name it: no path, no password."""
        return "mlflow.db" if self.own_store else self.tracking_uri.place


def read_settings(values: Mapping[str, object] | None = None) -> Settings:
    """The settings of this process.

    values: names like PHI3KIT_HOME to values, an empty one is none; the environment when None. The data folder is
    .phi3kit in the checkout, or in the user's home folder where phi3kit is installed, unless PHI3KIT_HOME names another
    one. Raises SettingInvalid.
    """
    given = os.environ if values is None else values
    found = {name: value for name, value in given.items() if value is not None and value != ""}

    def text(name: str, default: str = "") -> str:
        return str(found.get(name, default))

    def optional_number(name: str) -> int | None:
        return _whole_number(found, name, 0) if name in found else None

    default_home = "~/.phi3kit" if INSTALLED else str(PROJECT_ROOT / ".phi3kit")
    try:
        home = Path(text("PHI3KIT_HOME", default_home)).expanduser().resolve()
    except RuntimeError as error:
        raise _invalid("PHI3KIT_HOME", f"{error}", "Set it to a folder that you may write to.") from error
    if "?" in str(home) or unquote(str(home)) != str(home):
        # SQLAlchemy and MLflow would take another path out of the store's URI. SQLite's own URIs (file:…?uri=true) can
        # quote one, but whatever stands behind a ? is masked where an address is shown, so that no snippet would work.
        raise _invalid(
            "PHI3KIT_HOME", f"{home} means another folder in a database's URI.", "Set it to one without ? and %."
        )
    tracking_uri = text("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
    is_server = tracking_uri.startswith(("http://", "https://"))
    profile = _one_of(found, "PHI3KIT_PROFILE", PROFILES, "local")
    # What strangers say is never kept, whatever is set.
    log_text = _switch(found, "PHI3KIT_LOG_TEXT", default=_is_on_this_machine(tracking_uri)) and profile != "public"
    limits = {name: value for name, variable in VARIABLES.items() if (value := optional_number(variable)) is not None}
    return Settings(
        home=home,
        tracking_uri=SecretUrl(tracking_uri),
        api_key=_header_secret("PHI3KIT_API_KEY", text("PHI3KIT_API_KEY")),
        idle_seconds=_whole_number(found, "PHI3KIT_IDLE_SECONDS", 900),
        start_seconds=_whole_number(found, "PHI3KIT_START_SECONDS", 120),
        max_queue=_whole_number(found, "PHI3KIT_MAX_QUEUE", 32),
        threads=optional_number("PHI3KIT_THREADS"),
        kv_budget_mb=optional_number("PHI3KIT_KV_BUDGET_MB"),
        shared_system=text("PHI3KIT_SHARED_SYSTEM") or None,
        user=text("PHI3KIT_USER", "local"),
        log_text=log_text,
        profile=profile,
        role_lists=RoleLists(
            admins=_people("PHI3KIT_ADMINS", text("PHI3KIT_ADMINS")),
            users=_people("PHI3KIT_USERS", text("PHI3KIT_USERS")),
            viewers=_people("PHI3KIT_VIEWERS", text("PHI3KIT_VIEWERS")),
            claim=text("PHI3KIT_ROLE_CLAIM").strip() or None,
            default=_one_of(found, "PHI3KIT_DEFAULT_ROLE", (*LISTED_ROLES, "nobody"), "nobody"),
            several=len(providers(found.get("auth"))) > 1,
        ),
        host_names=_host_names(found, profile),
        limits=replace(DEFAULTS[profile], **limits),
        allowed_hosts=_allowed_hosts(found, profile),
        mlflow_url=_without_password(
            text("PHI3KIT_MLFLOW_URL", tracking_uri if is_server else "http://127.0.0.1:5000")
        ).rstrip("/"),
        tracking_username=text("MLFLOW_TRACKING_USERNAME") or None,
        tracking_password=_secret(text("MLFLOW_TRACKING_PASSWORD")),
        tracking_token=_header_secret("MLFLOW_TRACKING_TOKEN", text("MLFLOW_TRACKING_TOKEN")),
        hub_endpoint=SecretUrl(text("HF_ENDPOINT", "https://huggingface.co").rstrip("/")),
        hub_token=_header_secret("PHI3KIT_HF_TOKEN", text("PHI3KIT_HF_TOKEN"))
        or _header_secret("HF_TOKEN", text("HF_TOKEN")),
    )


def providers(section: object) -> list[str | None]:
    """The providers as st.login names them: each [auth.NAME], or without any [auth] itself (None)."""
    named = section.items() if isinstance(section, Mapping) else ()
    return [name for name, value in named if isinstance(value, Mapping) and name != "client_kwargs"] or [None]


def _secret(text: str) -> Secret | None:
    return Secret(text) if text else None


def _header_secret(name: str, text: str) -> Secret | None:
    """A secret that travels in a header. Raises SettingInvalid, without its text, where none could carry it."""
    secret = text.strip()
    if not fits_a_header(secret):
        raise _invalid(
            name,
            "It has characters that are not allowed in a header.",
            "Set it to ASCII letters, digits and symbols on one line.",
        )
    return _secret(secret)


def _one_of(found: Mapping[str, object], name: str, choices: tuple[Word, ...], default: Word) -> Word:
    given = str(found.get(name, default)).strip().lower() or default
    for word in choices:
        if given == word:
            return word
    raise _invalid(name, f"It is {given!r}.", f"Set it to {', '.join(choices[:-1])} or {choices[-1]}.")


def _people(name: str, text: str) -> frozenset[str]:
    """Entries of a list of people; an address alone means `email:`. Raises SettingInvalid."""
    found = set()
    for entry in filter(None, (each.strip() for each in text.split(","))):
        kind, _, value = entry.partition(":")
        if kind == "email" or (":" not in entry and "@" in entry):
            issuer, mark, address = (value if kind == "email" else entry).rpartition("#")
            # Only in ASCII: some other letters would become ASCII letters.
            found.add(f"email:{issuer}{mark}{address.lower() if address.isascii() else address}")
        elif (kind == "sub" and "#" in value) or (kind == "group" and value):
            found.add(entry)
        else:
            raise _invalid(
                name,
                f"{entry!r} does not say which claim it is.",
                "Write email:ADDRESS, sub:ISSUER#SUBJECT or group:NAME; the sign-in page shows each person the matching entries.",
            )
    return frozenset(found)


def _host_names(found: Mapping[str, object], profile: Profile) -> tuple[str, ...]:
    """PHI3KIT_HOST_NAMES, and the name to which people come back from the identity provider."""
    if "PHI3KIT_HOST_NAMES" in found:
        names = str(found["PHI3KIT_HOST_NAMES"]).split(",")
    else:
        names = list(_PUBLIC_HOST_NAMES) if profile == "public" else []
    section = found.get("auth")
    redirect = section.get("redirect_uri") if isinstance(section, Mapping) else None
    with suppress(ValueError):  # the sign-in page says what is wrong with it
        names.append(urlsplit(str(redirect or "")).hostname or "")
    return tuple(each.strip().lower() for each in names if each.strip())


def _allowed_hosts(found: Mapping[str, object], profile: Profile) -> tuple[str, ...] | None:
    if profile == "public":
        return ()
    if "PHI3KIT_ALLOWED_HOSTS" not in found:
        return None if profile == "local" else ()
    given = str(found["PHI3KIT_ALLOWED_HOSTS"])
    return tuple(each.strip().lower() for each in given.split(",") if each.strip())


def _is_on_this_machine(tracking_uri: str) -> bool:
    """Whether what is logged stays on this machine."""
    parts = _parts(tracking_uri)
    return parts.scheme in ("sqlite", "file", "") or parts.hostname in ("localhost", "127.0.0.1", "::1")


def _without_password(url: str) -> str:
    parts = _parts(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # its text has the address in it
        why = "It is not an address."
        raise _invalid("MLFLOW_TRACKING_URI", why, "Write it like http://mlflow.example:5000.") from None


def _switch(found: Mapping[str, object], name: str, *, default: bool) -> bool:
    given = str(found.get(name, default))
    text = given.strip().lower()
    if text in _ON or text in _OFF:
        return text in _ON
    next_step = f"Correct or remove {name}; the default here is {int(default)}."
    raise _invalid(name, f"It is {given!r}; 1 or 0 is needed.", next_step)


def _whole_number(found: Mapping[str, object], name: str, default: int) -> int:
    """A number of 1 or more. default: 0 stands for none."""
    text = str(found.get(name, default))
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        why = f"It is {text!r}; a whole number of 1 or more is needed."
        default_words = f"the default is {default or 'chosen from the machine'}"
        raise _invalid(name, why, f"Correct or remove {name}; {default_words}.")
    return number


def _invalid(name: str, why: str, next_step: str) -> SettingInvalid:
    return SettingInvalid(f"The setting {name} cannot be used.", why, next_step)
