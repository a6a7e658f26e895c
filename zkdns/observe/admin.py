"""The admin address: health and figures over HTTP, for load balancers, container platforms and people.

`/healthz` answers as soon as the process does; `/readyz` is 503 until the table has been read; `/metrics` is
for Prometheus.
"""

from __future__ import annotations

import http.server
import socket
import socketserver
import threading
from collections.abc import Callable
from http import HTTPStatus

from zkdns.address import HostPort
from zkdns.errors import ListenError

_REQUEST_SECONDS = 5.0
_PLAIN = "text/plain; charset=utf-8"
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"  # the text format; our names need no later one
_OPENMETRICS = "application/openmetrics-text"
_OPENMETRICS_1 = f"{_OPENMETRICS}; version=1.0.0; charset=utf-8"


class AdminServer:
    """Serves the admin address from threads of its own.

    Args:
        address: where to listen; port 0 means any free one.
        is_ready: asked for each `/readyz`, from another thread.
        metrics: the text for each `/metrics`, likewise; given whether it is to be OpenMetrics.

    Raises:
        ListenError: the address cannot be bound.
    """

    def __init__(
        self, address: HostPort, is_ready: Callable[[], bool], metrics: Callable[[bool], str]
    ) -> None:
        try:
            self._server = _server_class(address)(
                (address.host, address.port), _handler_class(is_ready, metrics)
            )
        except OSError as error:
            raise ListenError(
                f"cannot listen on {address} for admin requests: {error.strerror}; "
                "choose another address with --admin ADDR:PORT, or none with --admin none"
            ) from None
        self._thread = threading.Thread(target=self._server.serve_forever, name="admin", daemon=True)

    @property
    def address(self) -> HostPort:
        """Where it really listens."""
        host, port = self._server.server_address[:2]
        return HostPort(str(host), port)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


def _server_class(address: HostPort) -> type[http.server.ThreadingHTTPServer]:
    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        allow_reuse_port = False  # two servers must not share a port unnoticed
        daemon_threads = True

        def server_bind(self) -> None:
            """Bind, without the base class's look-up of a host name: DNS may be what is about to start."""
            socketserver.TCPServer.server_bind(self)
            self.server_name, self.server_port = address.host, self.socket.getsockname()[1]

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that hangs up costs nobody anything, and is not worth a traceback."""

    return Server


def _handler_class(
    is_ready: Callable[[], bool], metrics: Callable[[bool], str]
) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = _REQUEST_SECONDS
        server_version = "zkdns"
        sys_version = ""

        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/healthz":
                    self._tell(HTTPStatus.OK, "ok\n")
                case "/readyz" if is_ready():
                    self._tell(HTTPStatus.OK, "ready\n")
                case "/readyz":
                    self._tell(HTTPStatus.SERVICE_UNAVAILABLE, "not ready: the table has not been read yet\n")
                case "/metrics":
                    is_openmetrics = _OPENMETRICS in (self.headers["Accept"] or "")
                    content_type = _OPENMETRICS_1 if is_openmetrics else _PROMETHEUS
                    self._tell(HTTPStatus.OK, metrics(is_openmetrics), content_type)
                case path:
                    sentence = f"{path}: not here; there are /healthz, /readyz and /metrics\n"
                    self._tell(HTTPStatus.NOT_FOUND, sentence)

        do_HEAD = do_GET  # noqa: N815 - the base class's naming

        def _tell(self, status: HTTPStatus, text: str, content_type: str = _PLAIN) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Requests are not logged: health is asked for every few seconds."""

    return Handler
