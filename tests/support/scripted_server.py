"""A scripted server: answers every connection with the same bytes, to test what a client makes of foreign servers."""

import datetime
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from socket import SHUT_RDWR, create_server, socket

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass
class Scripted:
    """Where it listens, and the requests that it read."""

    port: int
    requests: list[str] = field(default_factory=list)
    sent: int = 0  # bytes that callers took of `again`

    @property
    def url(self) -> str:
        """Its root."""
        return f"http://127.0.0.1:{self.port}"


def http_answer(status: int, body: str, kind: str = "application/json", headers: str = "") -> bytes:
    """A whole HTTP answer. headers: more of them, each with its line end."""
    content = body.encode()
    head = f"HTTP/1.1 {status} Said\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n{headers}"
    return f"{head}Connection: close\r\n\r\n".encode() + content


def event_stream(*events: str) -> bytes:
    """An answer that streams these events and ends."""
    return http_answer(200, "".join(f"data: {event}\n\n" for event in events), "text/event-stream")


@contextmanager
def scripted(
    answer: bytes,
    *,
    hold_open_s: float = 0,
    certificate: Path | None = None,
    port: int = 0,
    again: bytes = b"",
    pause_s: float = 0,
) -> Iterator[Scripted]:
    """Serve until the block ends. hold_open_s: keep the connection open so long behind the answer. port: 0 takes any.

    again: sent behind the answer, over and over until the caller goes. pause_s: between two of them.
    """
    listener = create_server(("127.0.0.1", port))
    server = Scripted(listener.getsockname()[1])
    ended = threading.Event()
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

    def serve(connection: socket) -> None:
        with connection:
            try:
                talking = context.wrap_socket(connection, server_side=True) if context else connection
                server.requests.append(_read_request(talking))
                talking.sendall(answer)
                while again and not ended.wait(pause_s):
                    talking.sendall(again)
                    server.sent += len(again)
                ended.wait(hold_open_s)
                talking.close()
            except OSError:
                pass  # the client went

    def listen() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=listen, daemon=True).start()
    try:
        yield server
    finally:
        ended.set()
        listener.shutdown(SHUT_RDWR)  # a thread that waits for callers would keep the port
        listener.close()


def self_signed(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody trusts, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    path = folder / "self-signed.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


def _read_request(connection: socket) -> str:
    """Head and body of one request, or the beginning of TLS where none is spoken."""
    data = b""
    while b"\r\n\r\n" not in data and not data.startswith(b"\x16") and (piece := connection.recv(65536)):
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    while len(body) < length and (piece := connection.recv(65536)):
        body += piece
    return (head + b"\r\n\r\n" + body).decode("utf-8", "replace")
