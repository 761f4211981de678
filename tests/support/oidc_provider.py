"""An OpenID Connect provider as a process of its own, on loopback: discovery, authorize with PKCE, token, keys (RS256),
userinfo, end of session. Its sign-in page is one button a person, and some of its people get tokens no app may take.

    python -m tests.support.oidc_provider PORT CLIENT_ID CLIENT_SECRET REDIRECT_URI < PEOPLE.json
"""

import base64
import hashlib
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import urlencode

import uvicorn
from joserfc import jwk, jwt
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from phi3kit.core.settings import PROJECT_ROOT
from phi3kit.deployment.servers import free_port
from tests.support.waiting import wait_for_server

CLIENT_ID, CLIENT_SECRET = "phi3kit", "client-secret-of-the-tests"
_CODE_S = 60.0


class Provider:
    """What one provider knows. A person: the claims of the ID token, and with _key, _lifetime_s, _drop what is odd."""

    def __init__(self, issuer: str, client: tuple[str, str], redirect_uri: str, people: dict[str, Any]) -> None:
        self.issuer, self.client, self.redirect_uri, self.people = issuer, client, redirect_uri, people
        self.key, self.other_key = (_rsa_key() for _ in range(2))
        self.codes: dict[str, dict[str, str]] = {}  # each is taken once
        self.access_tokens: dict[str, str] = {}

    def discovery(self, request: Request) -> Response:
        names = {"authorization": "authorize", "token": "token", "userinfo": "userinfo", "end_session": "end_session"}
        return JSONResponse(
            {f"{name}_endpoint": f"{self.issuer}/{path}" for name, path in names.items()}
            | {
                "issuer": self.issuer,
                "jwks_uri": f"{self.issuer}/jwks",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "code_challenge_methods_supported": ["S256"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            }
        )

    def jwks(self, request: Request) -> Response:
        return JSONResponse({"keys": [self.key.as_dict(private=False)]})

    def authorize(self, request: Request) -> Response:
        """The sign-in page, and after a click there the way back with a code."""
        asked = dict(request.query_params)
        wanted = (asked.get("client_id"), asked.get("redirect_uri"), asked.get("response_type"))
        if wanted != (self.client[0], self.redirect_uri, "code") or "openid" not in asked.get("scope", "").split():
            return Response("This client, address or scope is not known.", 400)
        if person := asked.pop("person", None):
            code = secrets.token_urlsafe()
            self.codes[code] = asked | {"person": person, "at": str(time.time())}
            return RedirectResponse(f"{self.redirect_uri}?{urlencode({'code': code, 'state': asked['state']})}", 302)
        hidden = "".join(f'<input type="hidden" name="{escape(k)}" value="{escape(v)}">' for k, v in asked.items())
        buttons = "".join(
            f'<button name="person" value="{escape(each)}">{escape(each)}</button>' for each in self.people
        )
        return HTMLResponse(f"<h1>Who are you?</h1><form>{hidden}{buttons}</form>")

    async def token(self, request: Request) -> Response:
        form = {name: str(value) for name, value in (await request.form()).items()}
        given = (form.get("client_id"), form.get("client_secret"))
        if authorization := request.headers.get("authorization", "").removeprefix("Basic "):
            given = tuple(base64.b64decode(authorization).decode().split(":", 1))  # type: ignore[assignment]
        asked = self.codes.pop(form.get("code", ""), None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if (
            given != self.client
            or asked is None
            or time.time() - float(asked["at"]) > _CODE_S
            or form.get("redirect_uri") != self.redirect_uri
            or asked.get("code_challenge") != challenge.decode().rstrip("=")
        ):
            return JSONResponse({"error": "invalid_grant"}, 400)
        access_token = secrets.token_urlsafe()
        self.access_tokens[access_token] = asked["person"]
        answer = {"access_token": access_token, "token_type": "Bearer", "expires_in": 3600}
        return JSONResponse(answer | {"id_token": self._id_token(self.people[asked["person"]], asked)})

    def _id_token(self, person: dict[str, Any], asked: dict[str, str]) -> str:
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": self.client[0], "iat": now, "exp": now + person.get("_lifetime_s", 3600)}
        claims |= {"nonce": asked["nonce"]} | {name: value for name, value in person.items() if name[0] != "_"}
        if person.get("_key") == "none":
            parts = ({"alg": "none"}, claims)
            return ".".join([*(_base64(json.dumps(part).encode()) for part in parts), ""])
        if person.get("_key") == "public":  # what everybody knows, as if it were a shared secret
            public = jwk.OctKey.import_key(self.key.as_pem(private=False))
            return jwt.encode({"alg": "HS256", "kid": "k1"}, claims, public)
        key = self.other_key if person.get("_key") == "other" else self.key
        return jwt.encode({"alg": "RS256", "kid": "k1"}, claims, key)

    def userinfo(self, request: Request) -> Response:
        person = self.access_tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if person is None:
            return Response(status_code=401)
        return JSONResponse({name: value for name, value in self.people[person].items() if name[0] != "_"})

    def end_session(self, request: Request) -> Response:
        asked = request.query_params
        if (asked.get("client_id"), asked.get("post_logout_redirect_uri")) != (self.client[0], self.redirect_uri):
            return Response("Signed out.", 200)
        return RedirectResponse(self.redirect_uri, 302)


def _rsa_key() -> jwk.RSAKey:
    return jwk.RSAKey.generate_key(2048, parameters={"kid": "k1", "use": "sig", "alg": "RS256"})


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


@dataclass(frozen=True)
class Running:
    """A running provider."""

    url: str

    def secrets_toml(self, redirect_uri: str) -> str:
        """What an app needs to let people sign in here."""
        values = {
            "redirect_uri": redirect_uri,
            "cookie_secret": secrets.token_hex(32),
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "server_metadata_url": f"{self.url}/.well-known/openid-configuration",
        }
        return "[auth]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


@contextmanager
def running_provider(redirect_uri: str, people: dict[str, Any]) -> Iterator[Running]:
    """A provider's process; it ends with the block."""
    port = free_port()
    command = [sys.executable, "-m", "tests.support.oidc_provider", str(port), CLIENT_ID, CLIENT_SECRET, redirect_uri]
    with subprocess.Popen(command, cwd=PROJECT_ROOT, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(people))
        process.stdin.close()
        provider = Running(f"http://127.0.0.1:{port}")

        try:
            wait_for_server(f"{provider.url}/jwks", process)
            yield provider
        finally:
            process.terminate()


def main(port: str, client_id: str, client_secret: str, redirect_uri: str) -> None:
    issuer = f"http://127.0.0.1:{port}"
    provider = Provider(issuer, (client_id, client_secret), redirect_uri, json.load(sys.stdin))
    routes = [
        Route("/.well-known/openid-configuration", provider.discovery),
        Route("/authorize", provider.authorize),
        Route("/token", provider.token, methods=["POST"]),
        *(Route(f"/{name}", getattr(provider, name)) for name in ("jwks", "userinfo", "end_session")),
    ]
    uvicorn.run(Starlette(routes=routes), host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
