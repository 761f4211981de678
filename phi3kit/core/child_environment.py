"""Child environment: the variables that a child process gets; no secret goes where it is not needed.

Knows names of variables. Starts nothing.
"""

import os
from collections.abc import Mapping

from phi3kit.core.limits import VARIABLES
from phi3kit.core.loopback import ask_directly
from phi3kit.core.secret import is_secret_name, revealed, secrets_of_url
from phi3kit.core.settings import INSTALLED, PROJECT_ROOT, Settings

# Variables of the parent that a child may need; no others are passed on.
_PASSED = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM", "VIRTUAL_ENV", "JAVA_HOME",
    "MLFLOW_TRACKING_AUTH",  # the name of a way to sign in, and no secret
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    # On Windows no program starts without the first of these, and no folder of the user's is found without the others.
    "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "TEMP", "TMP", "USERNAME", "USERPROFILE", "HOMEDRIVE",
    "HOMEPATH", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA", "NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE",
)  # fmt: skip
_PASSED_BEGINNINGS = (
    "LC_", "LD_LIBRARY_", "PYTHON", "PHI3KIT_", "MLFLOW_", "HF_", "TRANSFORMERS_", "TORCH", "OMP_", "MKL_", "OPENBLAS_",
    "CUDA_", "NVIDIA_", "ORT_", "MALLOC_", "SPARK_", "PYSPARK_", "HADOOP_", "GIT_PYTHON_", "XDG_",
)  # fmt: skip
# For children that reach artifact stores and the hub.
_OUTWARD_BEGINNINGS = ("AWS_", "AZURE_", "GOOGLE_", "BOTO_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")


def child_environment(settings: Settings) -> dict[str, str]:
    """For a child that works with the store: the same settings, and how to sign in there."""
    environment = {
        **{name: value for name, value in os.environ.items() if _is_plain(name)},
        **worker_environment(settings),
        **{name: value for name, value in os.environ.items() if name.upper().startswith(_OUTWARD_BEGINNINGS)},
        "MLFLOW_TRACKING_URI": settings.tracking_uri.reveal(),
        **tracking_credentials(settings),
        "HF_ENDPOINT": settings.hub_endpoint.reveal(),
        **({"PHI3KIT_HF_TOKEN": settings.hub_token.reveal()} if settings.hub_token else {}),
    }
    ask_directly(environment)
    return environment


def bare_environment() -> dict[str, str]:
    """For a child that needs no setting: no secrets, and where Python finds phi3kit."""
    # What is installed is found by itself; then the folder that the app was started in must not be looked at first.
    place = {"PYTHONSAFEPATH": "1"} if INSTALLED else {"PYTHONPATH": str(PROJECT_ROOT)}
    return {**_harmless(os.environ), **place}


def worker_environment(settings: Settings) -> dict[str, str]:
    """For a child that only computes: the same settings without secrets."""
    return {
        **bare_environment(),
        "PHI3KIT_HOME": str(settings.home),
        "PHI3KIT_IDLE_SECONDS": str(settings.idle_seconds),
        "PHI3KIT_START_SECONDS": str(settings.start_seconds),
        "PHI3KIT_MAX_QUEUE": str(settings.max_queue),
        **({"PHI3KIT_THREADS": str(settings.threads)} if settings.threads else {}),
        **({"PHI3KIT_KV_BUDGET_MB": str(settings.kv_budget_mb)} if settings.kv_budget_mb else {}),
        **({"PHI3KIT_SHARED_SYSTEM": settings.shared_system} if settings.shared_system else {}),
        "PHI3KIT_USER": settings.user,
        "PHI3KIT_LOG_TEXT": "1" if settings.log_text else "0",
        "PHI3KIT_PROFILE": settings.profile,
        **{VARIABLES[name]: str(value) for name, value in vars(settings.limits).items() if value is not None},
        **({"PHI3KIT_ALLOWED_HOSTS": ",".join(settings.allowed_hosts)} if settings.allowed_hosts is not None else {}),
        "HF_ENDPOINT": str(settings.hub_endpoint),
        "HF_HOME": str(settings.home / "hub"),
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),  # only a download asks the hub
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",  # what it reads and writes is UTF-8, on Windows too
        "MALLOC_ARENA_MAX": "2",  # glibc's heap for each thread costs a worker tens of MB
    }


def tracking_credentials(settings: Settings) -> dict[str, str]:
    """Variables by which MLflow signs in at a tracking server."""
    values = {
        "MLFLOW_TRACKING_USERNAME": settings.tracking_username,
        "MLFLOW_TRACKING_PASSWORD": revealed(settings.tracking_password),
        "MLFLOW_TRACKING_TOKEN": revealed(settings.tracking_token),
    }
    return {name: value for name, value in values.items() if value}


def _harmless(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables without secrets: neither their names nor addresses in their values are of one."""
    return {name: value for name, value in environment.items() if _is_plain(name) and not any(secrets_of_url(value))}


def _is_plain(name: str) -> bool:
    """Whether a variable of this name may be passed on, as far as its name says."""
    # A store's URI may hold a password.
    return name in _PASSED or (name.startswith(_PASSED_BEGINNINGS) and not is_secret_name(name) and "URI" not in name)
