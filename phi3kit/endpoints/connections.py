"""Connections: remote endpoints by name, with their URL, their protocol and the name of the secret that holds their key.

One JSON file in the data folder; a key itself is never kept. Sends nothing to an endpoint.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from filelock import FileLock

from phi3kit.access.actor import Actor
from phi3kit.core.data_folder import writing
from phi3kit.core.errors import ConnectionInvalid, StorageFailed, first_line
from phi3kit.core.records import Endpoint, EndpointProtocol, Interface
from phi3kit.core.secret import fits_a_header
from phi3kit.core.settings import Settings

KEY_PREFIX = "PHI3KIT_KEY_"  # whoever adds connections may send a key anywhere: only keys that are meant for it
_LONGEST_NAME = 40
_LONGEST_SILENCE_S = 3600


@dataclass(frozen=True)
class Connection:
    """One remote endpoint. Raises ConnectionInvalid for values that cannot be used."""

    name: str
    url: str
    protocol: EndpointProtocol = "openai"
    model: str = ""  # the endpoint's name for the model; an /invocations server has none
    key_name: str = ""  # the secret or environment variable with the key; empty: no key is sent
    context_tokens: int | None = None
    takes: Interface = "openai"  # of an /invocations server: messages, or a raw prompt
    silence_s: int = 120  # without a byte for so long it has failed

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_url(self.url)
        if self.key_name and not _is_key_name(self.key_name):
            raise ConnectionInvalid(
                f"The key name {self.key_name!r} cannot be used.",
                f"Only secrets whose name begins with {KEY_PREFIX} are sent to remote endpoints.",
                f"Put the key into a secret or environment variable such as {KEY_PREFIX}LAB and write that name here.",
            )
        if not 1 <= self.silence_s <= _LONGEST_SILENCE_S:
            raise ConnectionInvalid(
                "The time limit cannot be used.",
                f"It is {self.silence_s} s; it must be 1 to {_LONGEST_SILENCE_S:,} s.",
                "Correct it.",
            )
        if self.context_tokens is not None and self.context_tokens < 1:
            raise ConnectionInvalid("The context is too small.", "It must hold at least 1 token.", "Correct it.")

    @property
    def model_uri(self) -> str:
        """As turns are logged."""
        return f"remote:{self.name}/{self.model}" if self.model else f"remote:{self.name}"

    @property
    def label(self) -> str:
        """As choosers list it."""
        return f"{self.name} · {self.model}" if self.model else f"{self.name} · /invocations"


def list_connections(home: Path) -> list[Connection]:
    """The connections, by name. Raises StorageFailed when their file cannot be read."""
    path = _file(home)
    try:
        kept = json.loads(path.read_text("utf-8"))
        return sorted((Connection(**each) for each in kept), key=lambda each: each.name.casefold())
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, ConnectionInvalid) as error:
        raise StorageFailed(
            f"The connections in {path.name} cannot be read.",
            f"{error}",
            "Correct or remove this file in the data folder.",
        ) from error


def save_connection(connection: Connection, actor: Actor, settings: Settings) -> None:
    """Keep a connection; one of the same name is replaced. Raises NotAllowed, ConnectionInvalid or StorageFailed."""
    actor.require("connect")
    home = settings.home
    if connection.protocol == "openai" and not connection.model:
        raise ConnectionInvalid(
            "The model's name is missing.", "OpenAI's protocol requires one.", "Test lists the endpoint's models."
        )
    with writing(home), _lock(home):
        others = [each for each in list_connections(home) if each.name != connection.name]
        _write([*others, connection], home)


def remove_connection(name: str, actor: Actor, settings: Settings) -> None:
    """Forget a connection, if there is one of that name. Raises NotAllowed or StorageFailed."""
    actor.require("connect")
    home = settings.home
    with writing(home), _lock(home):
        _write([each for each in list_connections(home) if each.name != name], home)


def key_names(keys: Mapping[str, object]) -> list[str]:
    """The secrets that a connection may name, sorted."""
    return sorted(name for name, key in keys.items() if _is_key_name(name) and key)


def endpoint_of(connection: Connection, keys: Mapping[str, object], allowed_hosts: tuple[str, ...] | None) -> Endpoint:
    """Where the connection answers, with its key. Raises ConnectionInvalid without the key.

    keys: names to secrets. allowed_hosts: the settings'; the transport keeps to them.
    """
    key = str(keys.get(connection.key_name) or "").strip() if connection.key_name else ""
    if connection.key_name and not key:
        raise ConnectionInvalid(
            f"The connection {connection.name} has no key.",
            f"There is no secret or environment variable {connection.key_name}.",
            "Set it where the app runs and restart the app, or choose another name under Connections.",
        )
    if not fits_a_header(key):
        raise ConnectionInvalid(
            f"The key of the connection {connection.name} cannot be sent.",
            f"The secret {connection.key_name} has characters that are not allowed in a header.",
            "Set it to ASCII letters, digits and symbols on one line, and restart the app.",
        )
    base_url, api_path = _parts(connection)
    return Endpoint(
        base_url=base_url,
        api_key=key,
        model_uri=connection.model_uri,
        wrapper="remote",
        protocol=connection.protocol,
        api_path=api_path,
        model=connection.model,
        takes=connection.takes,
        silence_s=connection.silence_s,
        name=connection.name,
        allowed_hosts=allowed_hosts,
    )


def _parts(connection: Connection) -> tuple[str, str]:
    """The root of the endpoint, and the path of OpenAI's routes under it.

    Without a path in the URL that is /v1; a URL with a path is read like `base_url` of OpenAI's own client.
    """
    url = connection.url.rstrip("/")
    if connection.protocol == "invocations":
        return url.removesuffix("/invocations"), ""
    if not urlsplit(url).path or url.endswith("/v1"):
        return url.removesuffix("/v1"), "/v1"
    return url, ""


def _is_key_name(name: str) -> bool:
    return name.startswith(KEY_PREFIX) and name.isascii() and name.isidentifier()


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= _LONGEST_NAME or not all(char.isalnum() or char in "-_." for char in name):
        raise ConnectionInvalid(
            f"The name {name!r} cannot be used.",
            f"A name has 1 to {_LONGEST_NAME} letters, digits, dots, hyphens or underscores.",
            "Choose another name.",
        )


def _check_url(url: str) -> None:
    """Accepts http or https with a host, without user, password, query or fragment: keys belong into secrets."""
    try:
        parts = urlsplit(url)
        flaws = {
            "It does not begin with http:// or https://.": parts.scheme not in ("http", "https"),
            "It has no host.": not parts.hostname or parts.port == 0,
            "It contains a user or a password; put a key into a secret.": "@" in parts.netloc,
            "It has a query or a fragment after the path.": parts.query or parts.fragment or url.endswith(("?", "#")),
            "It contains spaces or control characters.": "\\" in url or " " in url or not url.isprintable(),
        }
        wrong = next((flaw for flaw, found in flaws.items() if found), None)
        if not wrong:
            httpx2.URL(url).host.encode("idna")  # as it will be asked
    except (ValueError, httpx2.InvalidURL) as error:  # of a port, a name or an IPv6 address
        wrong = first_line(error)
    if wrong:
        raise ConnectionInvalid(
            "The URL cannot be used.", wrong, "Use one such as http://127.0.0.1:8000 or https://host.example/v1."
        )


def _file(home: Path) -> Path:
    return home / "connections.json"


def _lock(home: Path) -> FileLock:
    return FileLock(home / "connections.lock", timeout=10)


def _write(connections: Sequence[Connection], home: Path) -> None:
    """Atomically: a reader never sees half a file."""
    draft = home / "connections.json.new"  # one writer: it holds the lock
    draft.write_text(json.dumps([asdict(each) for each in connections], ensure_ascii=False, indent=2), "utf-8")
    draft.replace(_file(home))
