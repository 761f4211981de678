"""Settings: one frozen record, read at the edge from environment variables and Streamlit secrets.

Knows names, defaults and units. Opens nothing.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from phi3kit.core.errors import SettingInvalid
from phi3kit.core.limits import DEFAULTS, VARIABLES, Limits
from phi3kit.core.profiles import LISTED_ROLES, PROFILES, Profile, Role

_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel carries the app (streamlit_app.py, pages, .streamlit) within the package; a checkout has it beside.
INSTALLED = (_PACKAGE / "app").is_dir()
PROJECT_ROOT = _PACKAGE.parent  # where Python finds phi3kit: the checkout, or site-packages
APP_FOLDER = _PACKAGE / "app" if INSTALLED else PROJECT_ROOT

_ON, _OFF = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True)
class RoleLists:
    """The people of each role, by name as an operator wrote it, and the claim that gives a role."""

    admins: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    viewers: frozenset[str] = frozenset()
    claim: str | None = None  # a claim's name; inside another claim with dots: realm_access.roles
    default: Role = "nobody"  # of a person who signed in and is on no list


@dataclass(frozen=True)
class Settings:
    """Everything that can be set; docs/settings.md describes the variables."""

    home: Path  # the data folder; nothing is written elsewhere
    tracking_uri: str
    api_key: str | None = field(repr=False)  # what `phi3kit serve` asks of its callers
    idle_seconds: int  # a worker without a request for so long ends itself
    start_seconds: int  # a worker that is not ready after so long has failed
    max_queue: int  # turns that may wait at one worker
    threads: int | None  # that compute one step; None: as many as the process has CPUs
    kv_budget_mb: int | None  # memory of a worker's conversations; None: two whole contexts, or a third of what is free
    user: str  # the name of whoever uses this machine without signing in
    log_text: bool  # whether prompts and answers are kept and logged, or only what they cost
    profile: Profile  # for whom the app is open
    role_lists: RoleLists  # who gets which role in the profile team
    limits: Limits
    allowed_hosts: tuple[str, ...] | None  # where remote endpoints may lie: hosts, addresses, networks; None: anywhere
    mlflow_url: str  # where MLflow's own pages are
    tracking_username: str | None  # for a tracking server that asks
    tracking_password: str | None = field(repr=False)
    tracking_token: str | None = field(repr=False)
    hub_endpoint: str  # where Hugging Face's HTTP is spoken
    hub_token: str | None = field(repr=False)  # opens gated repositories; never logged

    @property
    def own_store(self) -> bool:
        """Whether the tracking store is the SQLite file in the data folder."""
        return self.tracking_uri == f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def store_name(self) -> str:
        """The store as the pages name it: no path, no password."""
        return "mlflow.db" if self.own_store else self.tracking_uri.split("@")[-1].split("://")[-1]


def read_settings(values: Mapping[str, object] | None = None) -> Settings:
    """The settings of this process.

    values: names like PHI3KIT_HOME to values; the environment when None. The data folder is .phi3kit in the checkout, or
    in the user's home folder where phi3kit is installed, unless PHI3KIT_HOME names another one. Raises SettingInvalid.
    """
    default_home = "~/.phi3kit" if INSTALLED else PROJECT_ROOT / ".phi3kit"
    found = os.environ if values is None else values
    try:
        home = Path(str(found.get("PHI3KIT_HOME") or default_home)).expanduser().resolve()
    except RuntimeError as error:
        raise SettingInvalid(
            "The setting PHI3KIT_HOME cannot be used.", f"{error}", "Set it to a folder that you may write to."
        ) from error
    tracking_uri = str(found.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}")
    is_server = tracking_uri.startswith(("http://", "https://"))
    profile = _profile(found)
    return Settings(
        home=home,
        tracking_uri=tracking_uri,
        api_key=str(found.get("PHI3KIT_API_KEY") or "") or None,
        idle_seconds=_whole_number(found, "PHI3KIT_IDLE_SECONDS", 900),
        start_seconds=_whole_number(found, "PHI3KIT_START_SECONDS", 120),
        max_queue=_whole_number(found, "PHI3KIT_MAX_QUEUE", 32),
        threads=_optional_whole_number(found, "PHI3KIT_THREADS"),
        kv_budget_mb=_optional_whole_number(found, "PHI3KIT_KV_BUDGET_MB"),
        user=str(found.get("PHI3KIT_USER") or "local"),
        # What strangers say is never kept, whatever is set.
        log_text=_switch(found, "PHI3KIT_LOG_TEXT", default=_is_on_this_machine(tracking_uri)) and profile != "public",
        profile=profile,
        role_lists=_role_lists(found),
        limits=_limits(found, profile),
        allowed_hosts=_allowed_hosts(found, profile),
        mlflow_url=str(
            found.get("PHI3KIT_MLFLOW_URL")
            or (_without_password(tracking_uri) if is_server else "http://127.0.0.1:5000")
        ).rstrip("/"),
        tracking_username=str(found.get("MLFLOW_TRACKING_USERNAME") or "") or None,
        tracking_password=str(found.get("MLFLOW_TRACKING_PASSWORD") or "") or None,
        tracking_token=str(found.get("MLFLOW_TRACKING_TOKEN") or "") or None,
        hub_endpoint=str(found.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/"),
        hub_token=str(found.get("PHI3KIT_HF_TOKEN") or found.get("HF_TOKEN") or "") or None,
    )


def _profile(found: Mapping[str, object]) -> Profile:
    given = str(found.get("PHI3KIT_PROFILE") or "local").strip().lower()
    for profile in PROFILES:
        if given == profile:
            return profile
    raise SettingInvalid(
        "The setting PHI3KIT_PROFILE cannot be used.", f"It is {given!r}.", f"Set it to {', '.join(PROFILES)}."
    )


def _role_lists(found: Mapping[str, object]) -> RoleLists:
    def text(name: str) -> str:
        return str(found.get(name) or "").strip()

    def names(name: str) -> frozenset[str]:
        return frozenset(each.strip() for each in text(name).split(",") if each.strip())

    return RoleLists(
        admins=names("PHI3KIT_ADMINS"),
        users=names("PHI3KIT_USERS"),
        viewers=names("PHI3KIT_VIEWERS"),
        claim=text("PHI3KIT_ROLE_CLAIM") or None,
        default=_default_role(text("PHI3KIT_DEFAULT_ROLE")),
    )


def _default_role(given: str) -> Role:
    for role in (*LISTED_ROLES, "nobody"):
        if (given.lower() or "nobody") == role:
            return role  # type: ignore[return-value]
    raise SettingInvalid(
        "The setting PHI3KIT_DEFAULT_ROLE cannot be used.",
        f"It is {given!r}.",
        f"Set it to {', '.join(LISTED_ROLES)} or nobody.",
    )


def _limits(found: Mapping[str, object], profile: Profile) -> Limits:
    given = {name: _optional_whole_number(found, variable) for name, variable in VARIABLES.items()}
    return replace(DEFAULTS[profile], **{name: value for name, value in given.items() if value is not None})


def _allowed_hosts(found: Mapping[str, object], profile: Profile) -> tuple[str, ...] | None:
    given = found.get("PHI3KIT_ALLOWED_HOSTS")
    if profile == "public":
        return ()
    if given is None or given == "":
        return None if profile == "local" else ()
    return tuple(each.strip().lower() for each in str(given).split(",") if each.strip())


def _is_on_this_machine(tracking_uri: str) -> bool:
    """Whether what is logged stays on this machine."""
    parts = _parts(tracking_uri)
    return parts.scheme in ("sqlite", "file", "") or parts.hostname in ("localhost", "127.0.0.1", "::1")


def _without_password(url: str) -> str:
    parts = _parts(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise SettingInvalid(
            "The setting MLFLOW_TRACKING_URI cannot be used.", f"{error}.", "Write it like http://mlflow.example:5000."
        ) from error


def _switch(found: Mapping[str, object], name: str, *, default: bool) -> bool:
    given = found.get(name)
    if given is None or given == "":
        return default
    text = str(given).strip().lower()
    if text in _ON or text in _OFF:
        return text in _ON
    raise SettingInvalid(
        what=f"The setting {name} cannot be used.",
        why=f"It is {str(given)!r}; 1 or 0 is needed.",
        next_step=f"Correct or remove {name}; the default here is {int(default)}.",
    )


def _optional_whole_number(found: Mapping[str, object], name: str) -> int | None:
    given = found.get(name)
    return None if given is None or given == "" else _whole_number(found, name, 0)


def _whole_number(found: Mapping[str, object], name: str, default: int) -> int:
    """A number of 1 or more; a default of 0 stands for none."""
    given = found.get(name)
    text = str(default if given is None or given == "" else given)
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise SettingInvalid(
            what=f"The setting {name} cannot be used.",
            why=f"It is {text!r}; a whole number of 1 or more is needed.",
            next_step=f"Correct or remove {name}; the default is {default or 'chosen from the machine'}.",
        )
    return number
