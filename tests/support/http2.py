"""HTTP/2 for `WebServer`: a connection handler, and the TLS settings."""

import ssl
from socketserver import BaseRequestHandler
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived, StreamEnded

from tests.support.web import ReceivedRequest, WebServer


def offering_http2(context: ssl.SSLContext) -> ssl.SSLContext:
    """Make a server context offer only HTTP/2 (ALPN), and return it."""
    context.set_alpn_protocols(["h2"])
    return context


class Http2Handler(BaseRequestHandler):
    """Responds to each request with the endpoint of the server as text. Bodies are not read."""

    server: WebServer
    request: Any

    def handle(self) -> None:
        self._connection = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._connection.initiate_connection()
        self.request.sendall(self._connection.data_to_send())
        while data := self.request.recv(65536):
            for event in self._connection.receive_data(data):
                if isinstance(event, RequestReceived):
                    headers = {str(name): str(value) for name, value in event.headers}
                    self.server.requests.append(
                        ReceivedRequest(
                            headers[":authority"], headers[":path"], b"", self.request.tls_name, None
                        )
                    )
                elif isinstance(event, StreamEnded):
                    self._connection.send_headers(event.stream_id, [(":status", "200")])
                    self._connection.send_data(
                        event.stream_id, self.server.endpoint.encode(), end_stream=True
                    )
            self.request.sendall(self._connection.data_to_send())
