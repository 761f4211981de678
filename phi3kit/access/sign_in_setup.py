"""Sign-in set-up: what secrets.toml must hold so that people can sign in, and nobody can forge a name.

Knows the settings of Streamlit's st.login (OpenID Connect), which signs people in. Reads no file.
"""

from collections.abc import Mapping
from typing import Any

from phi3kit.core.errors import SettingInvalid
from phi3kit.core.settings import providers

_SHARED = ("redirect_uri", "cookie_secret")
_OF_A_PROVIDER = ("client_id", "client_secret", "server_metadata_url")
_SHORTEST_SECRET = 32  # characters; whoever guesses it signs in as anybody
EXAMPLE = """[auth]
redirect_uri = "https://HOST/oauth2callback"
cookie_secret = "…"
client_id = "…"
client_secret = "…"
server_metadata_url = "https://PROVIDER/.well-known/openid-configuration"
"""


def check(section: Mapping[str, Any], trusted_headers: object) -> None:
    """Check that people can sign in and that nobody can pretend to have. Raises SettingInvalid.

    section: [auth] of secrets.toml. trusted_headers: Streamlit's server.trustedUserHeaders.
    """
    if trusted_headers:
        raise _invalid(
            "server.trustedUserHeaders is set: anyone who sends such a header could sign in as anyone.",
            "Remove it from Streamlit's configuration.",
        )
    missing = [f"{name} in [auth]" for name in _SHARED if not section.get(name)]
    for provider in providers(section):
        values, table = (section, "auth") if provider is None else (section[provider], f"auth.{provider}")
        missing += [f"{name} in [{table}]" for name in _OF_A_PROVIDER if not values.get(name)]
    if missing:
        raise _invalid(
            f"Missing in secrets.toml: {', '.join(missing)}." if section else "There is no [auth] in secrets.toml.",
            "Ask whoever runs this app to put the following into .streamlit/secrets.toml and restart it.",
        )
    if not str(section["redirect_uri"]).endswith("/oauth2callback"):
        raise _invalid(
            f"redirect_uri in [auth] is {section['redirect_uri']!r}.",
            "Set it to this app's own address followed by /oauth2callback, here and at the provider.",
        )
    if len(str(section["cookie_secret"])) < _SHORTEST_SECRET:
        raise _invalid(
            f"cookie_secret in [auth] has fewer than {_SHORTEST_SECRET} characters: it could be guessed.",
            "Set it to the output of: python -c 'import secrets; print(secrets.token_hex(32))'",
        )


def _invalid(why: str, next_step: str) -> SettingInvalid:
    return SettingInvalid("Nobody can sign in here yet.", why, next_step)
