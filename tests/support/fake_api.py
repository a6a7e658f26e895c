"""An HTTP API with fixed responses, at a Unix socket, for tests of commands."""

import contextlib
import http.server
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import msgspec


@dataclass
class FakeApi:
    """The responses of a server by path below `/api/`: a status and a body, bytes or an object for JSON.

    `requests` lists the paths with query strings that were requested. `server` is the header `Server`.
    """

    socket: str
    responses: dict[str, tuple[int, object]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    server: str = "zkdns"

    @contextlib.contextmanager
    def serving(self) -> Iterator["FakeApi"]:
        """Serve in a thread."""
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def version_string(self) -> str:
                return api.server

            def do_GET(self) -> None:
                api.requests.append(self.path)
                path = urlsplit(self.path).path.removeprefix("/api/")
                status, body = api.responses.get(path, (404, {"error": f"{path}: no such path"}))
                self.send_response(status)
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body if isinstance(body, bytes) else msgspec.json.encode(body))

            do_POST = do_GET  # noqa: N815 - the name is that of http.server

            def log_message(self, *_: object) -> None:
                pass

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

        Path(self.socket).parent.mkdir(parents=True, exist_ok=True)
        with Server(self.socket, Handler) as listener:
            thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield self
            finally:
                listener.shutdown()
                thread.join()
                Path(self.socket).unlink()


@contextlib.contextmanager
def responding(path: str | Path, name: str, body: object, status: int = 200) -> Iterator[FakeApi]:
    """A server at this socket with one response."""
    with FakeApi(str(path), {name: (status, body)}).serving() as api:
        yield api
