"""A client of the HTTP API: over a server's Unix socket, over TCP or over TLS.

It blocks, and each request has a connection of its own. The commands use it.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Final, Literal, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec

from zkdns.address import HostPort, connectable, parse_host_port
from zkdns.admin.api_types import (
    Explanation,
    Failure,
    HistoryPage,
    MemberCount,
    MemberRow,
    Names,
    ServiceDigest,
    ServiceDigests,
    ServiceListing,
    TableLine,
)
from zkdns.admin.status import StatsReading, Status, TrafficReading
from zkdns.causes import cause_of
from zkdns.config import Config
from zkdns.config.parsers import ADMIN_PORT
from zkdns.errors import BadValueError, ZkdnsError
from zkdns.serverset.service_counts import Listing

SECONDS: Final = 10.0
"""Time-out of a request: the server itself waits at most 5 s for its processes."""
RELOAD_SECONDS: Final = 600.0
"""Time-out of a reload: each new process may take 30 s, and another reload may run first."""
_MAX_BYTES = 1 << 28  # of a response that is decoded as a whole
_PIECE = 1 << 16
_MAX_ERROR = 500  # characters of an error that is not from zkdns
_OTHER_HOST = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_UNUSABLE_PATH = re.compile(r"[\x00-\x1f]")

T = TypeVar("T")


class ServerAddress(msgspec.Struct, frozen=True):
    """Where a server's HTTP API is: a Unix socket, or a host with a port."""

    path: str | None = None
    at: HostPort | None = None
    tls: bool = False

    def __str__(self) -> str:
        if self.at is None:
            return str(self.path)
        return f"{'https' if self.tls else 'http'}://{self.at}"


def configured_server(config: Config) -> ServerAddress | None:
    """Return where the server with this configuration listens: its Unix socket, or its admin address."""
    if config.admin.socket is not None:
        return ServerAddress(path=config.admin.socket)
    if config.admin.listen is None:
        return None
    return ServerAddress(at=connectable(config.admin.listen), tls=config.admin.certificate is not None)


class UnreachableError(ZkdnsError):
    """The server does not respond, or not as this version expects. The text has the reason and a remedy."""


class RefusedError(ZkdnsError):
    """The server refused the request.

    Attributes:
        status: the HTTP status.
        errors: the errors of a configuration that was not loaded.
    """

    def __init__(self, status: int, failure: Failure) -> None:
        self.status = status
        self.errors = failure.errors
        super().__init__(failure.error)


def parse_server(text: str) -> ServerAddress:
    """Parse the address of a server: `http://HOST[:PORT]`, `https://HOST[:PORT]`, `unix:/PATH`, or a path.

    Raises:
        BadValueError: it is none of them.
    """
    accepted = "write http://HOST:PORT, https://HOST:PORT or the path of a server's socket"
    if _UNUSABLE_PATH.search(text):
        raise BadValueError(f"{text!r} has unprintable characters; {accepted}")
    scheme, separator, rest = text.partition("://")
    if not separator:
        path = text.removeprefix("unix:")
        if "/" not in path:
            raise BadValueError(f"{text!r} is neither a URL nor a path; {accepted}")
        return ServerAddress(path=path)
    if scheme.lower() not in {"http", "https"}:
        raise BadValueError(f"{text!r} has the scheme {scheme!r}; {accepted}")
    try:
        parts = urlsplit(f"//{rest}")
    except ValueError:
        raise BadValueError(f"{text!r} has no usable host; {accepted}") from None
    if parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise BadValueError(f"{text!r} has more than a host and a port; {accepted}")
    at = parse_host_port(parts.netloc, default_port=ADMIN_PORT)
    return ServerAddress(at=at, tls=scheme.lower() == "https")


class ApiClient:
    """Sends requests to one server.

    Args:
        server: its address.
        token: bearer token for requests that change something; None: none is sent.
        option: the option that names the server, for errors. Empty: it is an argument.
    """

    def __init__(self, server: ServerAddress, token: str | None = None, *, option: str = "--server") -> None:
        self.server = server
        self._option = f" with {option}" if option else ""
        self._token = token

    # -- reading -------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """Read the state of the server."""
        return self.get("status", Status)

    def stats(self) -> StatsReading:
        """Read its counters and gauges."""
        return self.get("stats", StatsReading)

    def traffic(self) -> TrafficReading:
        """Read the responses by service, and the most frequent names and clients."""
        return self.get("traffic", TrafficReading)

    def services(self, after: int = 0) -> ServiceListing:
        """List the services that have changed after a history entry. 0: all services."""
        return self.get("services", ServiceListing, after=str(after))

    def explain(self, name: str) -> Explanation:
        """Explain a name; it may not exist."""
        body, status = self._read("GET", "explain", {"name": name}, SECONDS)
        if status == HTTPStatus.NOT_FOUND:
            with contextlib.suppress(msgspec.MsgspecError):  # the description of a name that does not exist
                return msgspec.json.decode(body, type=Explanation)
        return self._decoded(body, status, Explanation)

    def history(self, service: str | None, after: int, limit: int) -> HistoryPage:
        """Read past changes, of one service or of all."""
        return self.get("history", HistoryPage, service=service, after=str(after), limit=str(limit))

    def count(self, service: str, seconds: float = SECONDS) -> MemberCount:
        """Count the members in the responses for a service.

        Args:
            service: a spelling of it (`zkdns.spelling`).
            seconds: time-out.
        """
        return self.get("count", MemberCount, seconds=seconds, service=service)

    def names(self, beginning: str, *, only_held: bool, seconds: float = SECONDS) -> Names:
        """List names of services with this beginning, all of them or those with held members."""
        held = "1" if only_held else None
        return self.get("names", Names, seconds=seconds, prefix=beginning, held=held)

    def similar_names(self, text: str) -> tuple[str, ...]:
        """List the names of services that are most similar to an unknown one."""
        return self.get("names", Names, near=text).names

    def digests(self) -> tuple[ServiceDigest, ...]:
        """List the digests of all services."""
        return self.get("digests", ServiceDigests).services

    def members(self, service: str) -> list[MemberRow]:
        """List the members of a service."""
        try:
            return [
                msgspec.json.decode(line, type=MemberRow) for line in self.lines("members", service=service)
            ]
        except msgspec.MsgspecError:
            raise self._other_version() from None

    def metrics(self) -> str:
        """Read the metrics in the text format of Prometheus."""
        body, status = self._read("GET", "/metrics", {}, SECONDS)
        if status != HTTPStatus.OK:
            self._decoded(body, status, Failure)
        return body.decode(errors="replace")

    def sets(self, environment: str | None) -> Listing:
        """List all server sets, or those of one environment."""
        return self.get("sets", Listing, environment=environment)

    def table(self) -> Iterator[TableLine]:
        """Copy the table: yield its head, then the changes that build it."""
        for line in self.lines("table"):
            try:
                yield msgspec.json.decode(line, type=TableLine)
            except msgspec.MsgspecError:
                raise self._other_version() from None

    # -- requests ------------------------------------------------------------------------------------------

    def get(self, path: str, response: type[T], *, seconds: float = SECONDS, **parameters: str | None) -> T:
        """Send a request that reads something.

        Args:
            path: below `/api/`.
            response: the type of the response.
            seconds: time-out.
            parameters: of the query string, except those that are None.

        Raises:
            UnreachableError, RefusedError: there is no such response.
        """
        return self._decoded(*self._read("GET", path, parameters, seconds), response)

    def post(self, path: str, response: type[T], *, seconds: float = SECONDS, **parameters: str | None) -> T:
        """Send a request that changes something. Arguments and errors are those of `get`."""
        return self._decoded(*self._read("POST", path, parameters, seconds), response)

    def lines(self, path: str, **parameters: str | None) -> Iterator[bytes]:
        """Yield the lines of a response as they arrive, without their ends. Arguments are those of `get`.

        Raises:
            UnreachableError, RefusedError: as for `get`; also if the server does not send all of them.
        """
        with self._response("GET", path, parameters, SECONDS) as response:
            if response.status != HTTPStatus.OK:
                self._decoded(response.read(_PIECE), response.status, Failure)
            yield from _lines_of(_pieces(response))

    def _read(
        self, method: Literal["GET", "POST"], path: str, parameters: dict[str, str | None], seconds: float
    ) -> tuple[bytes, int]:
        deadline = time.monotonic() + seconds
        with self._response(method, path, parameters, seconds) as response:
            body = bytearray()
            for piece in _pieces(response):
                body += piece
                if len(body) > _MAX_BYTES:
                    raise self._other_version()
                if time.monotonic() > deadline:  # the time-out of the socket is that of each piece
                    raise TimeoutError
            return bytes(body), response.status

    @contextlib.contextmanager
    def _response(
        self, method: str, path: str, parameters: dict[str, str | None], seconds: float
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request, and yield the response before its body is read. Raises `UnreachableError`.

        `path` is below `/api/`, unless it begins with a slash.
        """
        target = path if path.startswith("/") else f"/api/{path}"
        query = urlencode({name: value for name, value in parameters.items() if value is not None})
        headers = {"Accept": "application/json"}
        if self._token is not None and method == "POST":
            headers["Authorization"] = f"Bearer {self._token}"
        connection = _connection(self.server, seconds)
        try:
            with contextlib.closing(connection):
                connection.request(method, f"{target}{'?' if query else ''}{query}", headers=headers)
                # A response without a length has taken over the socket.
                with connection.getresponse() as response:
                    if response.getheader("Server") != "zkdns":
                        raise UnreachableError(f"the server at {self.server} is not a zkdns server")
                    yield response
        except TimeoutError:
            raise UnreachableError(
                f"the server at {self.server} does not respond within {seconds:g} s"
            ) from None
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise UnreachableError(
                f"no server listens at {self.server} ({self._absence(error)}); "
                f"start one, or name another one{self._option}"
            ) from None
        except PermissionError:
            raise UnreachableError(
                f"this user may not use {self.server} (permission denied); "
                "run the command as the user that the server runs as, "
                f"or name the server's HTTP address{self._option}"
            ) from None
        except ssl.SSLCertVerificationError as error:
            raise UnreachableError(self._refusal(error)) from None
        except http.client.HTTPException:
            https = f" (or use https://{self.server.at})" if self.server.at and not self.server.tls else ""
            raise UnreachableError(
                f"the server at {self.server} sent no complete HTTP response; is it a zkdns server?{https}"
            ) from None
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that DNS cannot have
            cause = cause_of(error)
            if isinstance(error, ssl.SSLError):
                cause = f"TLS fails ({cause}); does it use HTTPS?"
            raise UnreachableError(f"the server at {self.server} cannot be reached: {cause}") from None

    def _refusal(self, error: ssl.SSLCertVerificationError) -> str:
        """Why a certificate is not accepted, and what would help."""
        advice = "SSL_CERT_FILE can name the file of its CA"
        if error.verify_code in _OTHER_HOST:
            advice = "use a URL with a name that it has"
        reason = error.verify_message.rstrip(".")
        return f"the certificate of {self.server} is not accepted: {reason}; {advice}"

    def _absence(self, error: OSError) -> str:
        """Why a server does not listen."""
        path = self.server.path
        is_other_file = path is not None and Path(path).exists() and not Path(path).is_socket()
        return "it is not a socket" if is_other_file else cause_of(error)

    def _decoded(self, body: bytes, status: int, response: type[T]) -> T:
        if status == HTTPStatus.OK:
            try:
                return msgspec.json.decode(body, type=response)
            except msgspec.MsgspecError:
                raise self._other_version() from None
        try:
            failure = msgspec.json.decode(body, type=Failure)
        except msgspec.MsgspecError:
            failure = Failure(
                " ".join(body.decode(errors="replace").split())[:500] or f"HTTP status {status}"
            )
        raise RefusedError(status, failure)

    def _other_version(self) -> UnreachableError:
        return UnreachableError(f"the server at {self.server} is of another version of zkdns")


def _pieces(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the body as it arrives. Raises `IncompleteRead` if the connection closes before its end."""
    while piece := response.read1(_PIECE):
        yield piece
    if response.length:  # bytes that are missing
        raise http.client.IncompleteRead(b"")


def _lines_of(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines in these pieces. Raises `IncompleteRead` if the last one has no end."""
    begun: list[bytes] = []
    for piece in pieces:
        first, end, rest = piece.partition(b"\n")
        begun.append(first)
        if end:
            yield b"".join(begun)
            *whole, last = rest.split(b"\n")
            yield from whole
            begun = [last] if last else []
    if begun:
        raise http.client.IncompleteRead(b"")


class _UnixConnection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path
        self._seconds = seconds

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._seconds)
        self.sock.connect(self._path)


def _connection(server: ServerAddress, seconds: float) -> http.client.HTTPConnection:
    if server.at is None:
        return _UnixConnection(str(server.path), seconds)
    if server.tls:
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(server.at.host, server.at.port, timeout=seconds, context=context)
    return http.client.HTTPConnection(server.at.host, server.at.port, timeout=seconds)
