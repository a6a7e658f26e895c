"""Real HTTP servers on loopback, in threads, which record their requests."""

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler
from typing import Any, Self

from zkdns import FixedSet

_DRIP_LENGTH = 10_000  # bytes; a test ends before all of them are sent


@dataclass(frozen=True)
class ReceivedRequest:
    """A received request; `tls_name` is the server name of TLS (SNI)."""

    host: str
    path: str
    body: bytes
    tls_name: str | None
    cookie: str | None


class WebServer(ThreadingHTTPServer):
    """Responds with its own endpoint as text, except on special paths.

    - `/die` closes the connection without a response.
    - `/to?URL` redirects to the URL.
    - `/slow` sends the second half of the response when `go_on` is set.
    - `/drip` sends single bytes until `go_on` is set.
    - `/hang`, and other paths in `hanging`, respond when `go_on` is set.

    Attributes:
        endpoint: `host:port`.
        requests: the requests so far.
        accepted: the number of connections so far.
        go_on: see above.
        statuses: status codes other than 200 by path.
        hanging: see above.
        open: the open connections.
    """

    daemon_threads = False  # joined by server_close, after their connections were closed
    request_queue_size = 64

    def __init__(
        self,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        handler: Callable[[Any, Any, Any], BaseRequestHandler] | None = None,
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), handler or _Handler)
        self.endpoint = f"[{host}]:{self.server_port}" if ":" in host else f"{host}:{self.server_port}"
        self.requests: list[ReceivedRequest] = []
        self.accepted = 0
        self.go_on = threading.Event()
        self.statuses: dict[str, int] = {"/to": 302}
        self.hanging: set[str] = {"/hang"}
        self.open: set[socket.socket] = set()
        self._tls = tls
        self._thread = threading.Thread(target=lambda: self.serve_forever(poll_interval=0.01))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.go_on.set()
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self._tls is not None:
            # The handler does the handshake, so that this thread can accept other connections.
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self.accepted += 1
        self.open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.open.discard(request)

    def handle_error(self, *_: object) -> None:
        """Ignore errors: tests close connections and reject certificates."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise each part of a response would wait 40 ms for an ACK
    server: WebServer

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        tls_name = getattr(self.connection, "tls_name", None)
        self.server.requests.append(
            ReceivedRequest(self.headers["Host"], self.path, self._body(), tls_name, self.headers["Cookie"])
        )
        if path == "/die":
            self.close_connection = True
            return
        if path in self.server.hanging:
            self.server.go_on.wait(10)
        answer = self.server.endpoint.encode()
        self.send_response(self.server.statuses.get(path, 200))
        if path == "/to":
            self.send_header("Location", query)
            self.send_header("Set-Cookie", "seen=yes")
        self.send_header("Content-Length", str(len(answer) + (_DRIP_LENGTH if path == "/drip" else 0)))
        self.end_headers()
        self.wfile.write(answer[:5])
        while path == "/drip" and not self.server.go_on.wait(0.01):
            self.wfile.write(b".")
        if path == "/slow":
            self.wfile.flush()
            self.server.go_on.wait(10)
        self.wfile.write(answer[5:])

    do_POST = do_GET  # noqa: N815 - required by http.server

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, *_: object) -> None:
        """Do not log."""


@contextlib.contextmanager
def servers(count: int, **options: Any) -> Iterator[list[WebServer]]:
    """Start `count` servers, ordered by endpoint."""
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(WebServer(**options)) for _ in range(count)]
        yield sorted(started, key=lambda server: server.endpoint)


def fixed(started: list[WebServer], *more: str) -> FixedSet:
    """A `FixedSet` of these servers and more endpoints."""
    return FixedSet([*(server.endpoint for server in started), *more])


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """An endpoint that refuses connections. Its port is bound, so no other program can listen there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@contextlib.contextmanager
def closed_udp_port(host: str = "127.0.0.1") -> Iterator[int]:
    """A UDP port that answers datagrams with ICMP port unreachable, and that no other program can bind.

    It is bound to a connected socket, which only receives datagrams of its peer.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind((host, 0))
        bound.connect((host, 9))
        yield int(bound.getsockname()[1])


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """An endpoint where connections time out: the accept queue is full, so the kernel drops SYNs."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        filled = False
        while not filled:
            connection = stack.enter_context(socket.socket())
            connection.settimeout(0.2)
            try:
                connection.connect(address)
            except TimeoutError:
                filled = True
        yield f"127.0.0.1:{address[1]}"


def make_certificate(directory: Path, *names: str) -> tuple[ssl.SSLContext, Path]:
    """Create a self-signed certificate for these names.

    Returns the server context and the certificate file.
    """
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    subjects = ",".join(f"DNS:{name}" for name in names)
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    )
    subprocess.run(
        [*command.split(), "-addext", f"subjectAltName={subjects}", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def remember(connection: Any, name: str | None, _: ssl.SSLContext) -> None:
        connection.tls_name = name

    context.sni_callback = remember
    return context, certificate
