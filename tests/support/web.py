"""Real HTTP servers on loopback, in threads, that remember what they were asked."""

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

_MOST_DRIPS = 10_000  # bytes; more than fall while a test takes


@dataclass(frozen=True)
class ReceivedRequest:
    """One request as it came; `tls_name` is the name that TLS asked for."""

    host: str
    path: str
    body: bytes
    tls_name: str | None
    cookie: str | None


class WebServer(ThreadingHTTPServer):
    """Answers with its own endpoint as text, and every further part of a path has a meaning.

    `/die` closes without an answer, `/to?…` redirects there, `/slow` sends the second half of its answer when
    `go_on` is set, `/drip` single bytes until then; `/hang`, and what else is `hanging`, answers when it is
    set. `statuses` says what is answered other than 200, by path.
    """

    daemon_threads = False  # joined when it closes, after their connections were cut
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
            # The handshake is the handler's: this thread must go on accepting.
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self.accepted += 1
        self.open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.open.discard(request)

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients that go away, or do not trust the certificate, are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # answers go out in parts; each would wait 40 ms for the client's ACK
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
        self.send_header("Content-Length", str(len(answer) + (_MOST_DRIPS if path == "/drip" else 0)))
        self.end_headers()
        self.wfile.write(answer[:5])
        while path == "/drip" and not self.server.go_on.wait(0.01):
            self.wfile.write(b".")
        if path == "/slow":
            self.wfile.flush()
            self.server.go_on.wait(10)
        self.wfile.write(answer[5:])

    do_POST = do_GET  # noqa: N815 - as http.server wants it

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
        """Say nothing."""


@contextlib.contextmanager
def servers(count: int, **options: Any) -> Iterator[list[WebServer]]:
    """As many, in the order of their endpoints."""
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(WebServer(**options)) for _ in range(count)]
        yield sorted(started, key=lambda server: server.endpoint)


def fixed(started: list[WebServer], *more: str) -> FixedSet:
    """A set of these servers, and of further endpoints."""
    return FixedSet([*(server.endpoint for server in started), *more])


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """An endpoint that refuses connections: its port is taken, so that nobody else listens there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@contextlib.contextmanager
def closed_udp_port(host: str = "127.0.0.1") -> Iterator[int]:
    """A port where nobody takes datagrams, and that nobody else gets meanwhile.

    A socket has it that is connected, and so takes those of its peer alone: the kernel refuses all others.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind((host, 0))
        held.connect((host, 9))
        yield int(held.getsockname()[1])


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """An endpoint that lets connections time out: its queue is full, so that the kernel drops what comes."""
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
    """A self-signed certificate for these names: a server's context, and the file that a client trusts."""
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
