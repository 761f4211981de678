"""Settings: one frozen record, read at the edge from environment variables and Streamlit secrets.

Knows names, defaults and units. Opens nothing.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from phi3kit.errors import SettingInvalid

PROJECT_ROOT = Path(__file__).resolve().parent.parent

_ON, _OFF = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True)
class Settings:
    """Everything that can be set; the README's table of settings lists the variables."""

    home: Path  # the data folder; nothing is written elsewhere
    tracking_uri: str
    api_key: str | None = field(repr=False)  # what `phi3kit serve` asks of its callers
    idle_seconds: int  # a worker without a request for so long ends itself
    start_seconds: int  # a worker that is not ready after so long has failed
    max_queue: int  # turns that may wait at one worker
    threads: int | None  # that compute one step; None: as many as the process has CPUs
    kv_budget_mb: int | None  # memory of a worker's conversations; None: two whole contexts, or a third of what is free
    user: str  # who is written beside a turn
    log_text: bool  # whether prompts and answers are kept and logged, or only what they cost
    daily_tokens: int | None  # that all users together may spend a day (UTC) on this machine; None: no bound
    daily_tokens_per_user: int | None
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

    values: names like PHI3KIT_HOME to values; the environment when None. Raises SettingInvalid.
    """
    found = os.environ if values is None else values
    try:
        home = Path(str(found.get("PHI3KIT_HOME") or PROJECT_ROOT / ".phi3kit")).expanduser().resolve()
    except RuntimeError as error:
        raise SettingInvalid(
            "The setting PHI3KIT_HOME cannot be used.", f"{error}", "Set it to a folder that you may write to."
        ) from error
    tracking_uri = str(found.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}")
    is_server = tracking_uri.startswith(("http://", "https://"))
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
        log_text=_switch(found, "PHI3KIT_LOG_TEXT", default=_is_on_this_machine(tracking_uri)),
        daily_tokens=_optional_whole_number(found, "PHI3KIT_DAILY_TOKENS"),
        daily_tokens_per_user=_optional_whole_number(found, "PHI3KIT_DAILY_TOKENS_PER_USER"),
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


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment in which a child process reads the same settings, whatever its working folder."""
    return {
        **os.environ,
        "PHI3KIT_HOME": str(settings.home),
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "PHI3KIT_IDLE_SECONDS": str(settings.idle_seconds),
        "PHI3KIT_START_SECONDS": str(settings.start_seconds),
        "PHI3KIT_MAX_QUEUE": str(settings.max_queue),
        **({"PHI3KIT_THREADS": str(settings.threads)} if settings.threads else {}),
        **({"PHI3KIT_KV_BUDGET_MB": str(settings.kv_budget_mb)} if settings.kv_budget_mb else {}),
        "PHI3KIT_USER": settings.user,
        "PHI3KIT_LOG_TEXT": "1" if settings.log_text else "0",
        **({"PHI3KIT_DAILY_TOKENS": str(settings.daily_tokens)} if settings.daily_tokens else {}),
        **(
            {"PHI3KIT_DAILY_TOKENS_PER_USER": str(settings.daily_tokens_per_user)}
            if settings.daily_tokens_per_user
            else {}
        ),
        **tracking_credentials(settings),
        "PYTHONPATH": str(PROJECT_ROOT),
        "HF_ENDPOINT": settings.hub_endpoint,
        **({"PHI3KIT_HF_TOKEN": settings.hub_token} if settings.hub_token else {}),
        "HF_HOME": str(settings.home / "hub"),
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),  # no library asks the hub by itself; a download does
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "MALLOC_ARENA_MAX": "2",  # glibc's heap a thread would cost a worker tens of MB
    }


def tracking_credentials(settings: Settings) -> dict[str, str]:
    """What MLflow reads from the environment to sign in at a tracking server."""
    values = {
        "MLFLOW_TRACKING_USERNAME": settings.tracking_username,
        "MLFLOW_TRACKING_PASSWORD": settings.tracking_password,
        "MLFLOW_TRACKING_TOKEN": settings.tracking_token,
    }
    return {name: value for name, value in values.items() if value}


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
