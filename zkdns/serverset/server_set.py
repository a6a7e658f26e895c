"""`ServerSet`: one service in one environment, for registering and watching members."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from zkdns.address import MAX_PORT, ZOOKEEPER_PORT, parse_connect_string, parse_host_port
from zkdns.errors import BadValueError
from zkdns.namespace import Namespace, check_znode_path, parse_namespace
from zkdns.serverset.auth import ANONYMOUS, Access
from zkdns.serverset.member import Endpoint, Member, canonical_host, encode_member
from zkdns.serverset.ping import Ping
from zkdns.serverset.registration import Registration
from zkdns.serverset.session import Session
from zkdns.serverset.set_watch import SetWatch

if TYPE_CHECKING:
    from kazoo.client import KazooClient

LOCAL: Final = "local"
STAGING: Final = "staging"
PRODUCTION: Final = "prod"
TEST: Final = "test"

DEFAULT_NAMESPACE: Final = "/discovery/{environment}/{service}"
DEFAULT_ZOOKEEPER: Final = f"127.0.0.1:{ZOOKEEPER_PORT}"

_MAX_DATA = 1_000_000  # bytes; for more than 1 MB (jute.maxbuffer) ZooKeeper closes the connection
_INT32 = 2**31


class ServerSet:
    """The members of a service in ZooKeeper. It connects on first use.

        web = ServerSet(PRODUCTION, "web", "zk01:2181,zk02:2181")
        with web.register("10.0.0.1", 8080), web.watch() as watch:
            print(watch.endpoints)  # ('10.0.0.1:8080',)

    All registrations and watches of a ServerSet share a session. With `client`, several sets can share one.

    Args:
        environment: `STAGING`, `PRODUCTION`, or any other name of a znode.
        service: the service's name, without a slash.
        zookeeper: `host:port,host:port/chroot`.
        namespace: the template of paths, with the placeholders `{environment}` and `{service}` only.
        session_timeout: seconds without contact after which ZooKeeper ends the session, and its members.
        client: a kazoo client that the caller starts and stops. `zookeeper` is then ignored.
        access: credentials and TLS, as made by `zkdns.serverset.auth.load_access`.

    Raises:
        BadValueError: an invalid name, template or address.
    """

    def __init__(
        self,
        environment: str,
        service: str,
        zookeeper: str = DEFAULT_ZOOKEEPER,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        session_timeout: float = 5.0,
        client: KazooClient | None = None,
        access: Access = ANONYMOUS,
    ) -> None:
        self.environment = environment
        self.service = service
        self.path = _path(parse_namespace(namespace), environment, service)
        """The path of the set: the members are the children of this znode."""
        _check_seconds("session_timeout", session_timeout)
        self._client = client  # a strong reference, which the session has only while it has users
        self._session = (
            Session(parse_connect_string(zookeeper), session_timeout, access=access)
            if client is None
            else Session.of_client(client, session_timeout)
        )

    @property
    def is_connected(self) -> bool:
        """Whether ZooKeeper is connected now. False while nothing is registered or watched."""
        return self._session.is_connected

    def __repr__(self) -> str:
        return f"ServerSet({self.environment!r}, {self.service!r}, {self._session.hosts!r})"

    def register(
        self,
        host: str,
        port: int,
        *,
        ping: Ping | None = None,
        ping_interval: float = 1.0,
        ping_timeout: float | None = None,
        additional: Mapping[str, str | int | tuple[str, int]] | None = None,
        shard: int | None = None,
        metadata: Mapping[str, str] | None = None,
        timeout: float | None = 10.0,
    ) -> Registration:
        """Register a member, until the registration is closed.

        Args:
            host: an address or host name at which clients reach the service.
            port: the service's port. 0: the member has additional endpoints only.
            ping: called before registering, and then every `ping_interval` seconds. If it returns False,
                raises or exceeds `ping_timeout`, the member is unregistered until the ping succeeds again.
            ping_interval: seconds.
            ping_timeout: seconds. None: the interval, but at least one second.
            additional: further endpoints by name: `{"admin": 9990}` on the same host, or `"host:port"`.
            shard: the number of the service's shard.
            metadata: text by key, which readers of the member receive.
            timeout: seconds to wait for ZooKeeper. None: return at once, and register in the background.

        Raises:
            BadValueError: an invalid argument; the text gives the accepted form.
            UnreachableError: ZooKeeper was not reached in time. Nothing is registered.
            ZooKeeperError: ZooKeeper refuses, for instance because of its ACL. Nothing is registered.
        """
        member = make_member(host, port, additional=additional, shard=shard, metadata=metadata)
        _check_seconds("ping_interval", ping_interval)
        if ping_timeout is None:
            ping_timeout = max(ping_interval, 1.0)
        _check_seconds("ping_timeout", ping_timeout)
        registration = Registration(
            self._session,
            self.path,
            member,
            ping=ping,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
        )
        if timeout is not None:
            registration.wait_for_outcome(timeout)
        return registration

    async def register_async(
        self,
        host: str,
        port: int,
        *,
        ping: Ping | None = None,
        ping_interval: float = 1.0,
        ping_timeout: float | None = None,
        additional: Mapping[str, str | int | tuple[str, int]] | None = None,
        shard: int | None = None,
        metadata: Mapping[str, str] | None = None,
        timeout: float | None = 10.0,
    ) -> Registration:
        """As `register`, for asyncio. `async with` closes it. After cancellation nothing is registered."""
        registration = self.register(
            host,
            port,
            ping=ping,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            additional=additional,
            shard=shard,
            metadata=metadata,
            timeout=None,
        )
        if timeout is not None:
            await _outcome(registration, timeout)
        return registration

    def watch(self, *, timeout: float | None = 10.0) -> SetWatch:
        """Watch the members. The first set is available when this returns.

        Args:
            timeout: seconds to wait for ZooKeeper. None: return at once, without members at first.

        Raises:
            UnreachableError: ZooKeeper was not reached in time.
            ZooKeeperError: ZooKeeper refuses, for instance because of its ACL.
        """
        watch = SetWatch(self._session, self.path)
        if timeout is not None:
            watch.wait_for_outcome(timeout)
        return watch

    async def watch_async(self, *, timeout: float | None = 10.0) -> SetWatch:
        """As `watch`, for asyncio. Cancellation closes the watch."""
        watch = self.watch(timeout=None)
        if timeout is not None:
            await _outcome(watch, timeout)
        return watch


async def _outcome(opened: Registration | SetWatch, timeout: float) -> None:
    """Wait for the outcome. Cancellation closes the object, since the caller has no reference to it yet."""
    loop = asyncio.get_running_loop()
    try:
        await loop.run_in_executor(None, opened.wait_for_outcome, timeout)
    except asyncio.CancelledError:
        await asyncio.shield(
            loop.run_in_executor(None, opened.close)
        )  # a second cancellation does not stop it
        raise


def make_member(
    host: str,
    port: int,
    *,
    additional: Mapping[str, str | int | tuple[str, int]] | None = None,
    shard: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Member:
    """Check the values and make a member that every reader of the format accepts.

    Raises:
        BadValueError: an invalid value; the text gives the accepted form.
    """
    own = _checked_host(host)
    _check_port(port, 0)
    endpoints = {name: _additional(own, name, value) for name, value in (additional or {}).items()}
    if not port and not endpoints:
        raise BadValueError("port 0 requires additional endpoints, and there are none")
    if shard is not None and (type(shard) is not int or not -_INT32 <= shard < _INT32):
        raise BadValueError(f"shard {shard!r} is not a 32-bit integer")
    for key, text in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise BadValueError(f"metadata {key!r} is {text!r}; keys and values are text")
    service = Endpoint(own, port) if port else None
    member = Member("", service, endpoints, shard=shard, metadata=dict(metadata or {}))
    try:
        size = len(encode_member(member))
    except UnicodeEncodeError as error:
        raise BadValueError(f"{error.object!r} cannot be encoded: it is not valid Unicode") from None
    if size > _MAX_DATA:
        raise BadValueError(f"the member takes {size} bytes; ZooKeeper accepts less than 1 MB")
    return member


def _additional(own: str, name: str, value: str | int | tuple[str, int]) -> Endpoint:
    if not name or not isinstance(name, str):
        raise BadValueError(f"an additional endpoint has the name {name!r}; write a non-empty text")
    if isinstance(value, str):
        address = parse_host_port(value)
        host, port = address.host, address.port
    elif isinstance(value, tuple):
        if len(value) != 2:  # noqa: PLR2004 - a pair
            raise BadValueError(f"the additional endpoint {name!r} is {value!r}; write (host, port)")
        host, port = value
    else:
        host, port = own, value
    _check_port(port, 1)
    return Endpoint(_checked_host(host), port)


def _checked_host(host: str) -> str:
    if not isinstance(host, str):
        raise BadValueError(f"host {host!r} is neither an IP address nor a host name")
    return canonical_host(host)


def _check_port(port: int, min_port: int) -> None:
    if type(port) is not int or not min_port <= port <= MAX_PORT:
        raise BadValueError(f"port {port!r} is not valid; a port is {min_port} to {MAX_PORT}")


def _check_seconds(name: str, seconds: float) -> None:
    if not 0 < seconds < math.inf:
        raise BadValueError(f"{name} is {seconds!r}; it is a time in seconds, greater than 0")


def _path(namespace: Namespace, environment: str, service: str) -> str:
    own = namespace.steps[namespace.order[0]]
    path = namespace.path_of({"environment": environment, own: service})
    check_znode_path(path)
    return path
