"""Shared certificates: one SSL context for all HTTP clients of a process, as reading the system's takes each client 20 ms.

Knows httpx2 and the variables that name other certificates.
"""

import functools
import os
import ssl

import httpcore2

_default = httpcore2.default_ssl_context


def install() -> None:
    """From now on this process, and those that are forked from it, read each set of certificates once."""
    httpcore2.default_ssl_context = _shared  # type: ignore[attr-defined]


def _shared(*, _trust_env: bool = True) -> ssl.SSLContext:
    named = tuple(os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if _trust_env)
    return _made(_trust_env, named)


@functools.cache
def _made(trust_env: bool, named: tuple[str | None, ...]) -> ssl.SSLContext:
    return _default(_trust_env=trust_env)
