"""`ServerSet`: one service in one environment, to register in and to watch."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from zkdns.address import MAX_PORT, ZOOKEEPER_PORT, parse_connect_string, parse_host_port
from zkdns.errors import BadValueError
from zkdns.namespace import Namespace, check_znode_path, parse_namespace
from zkdns.serverset.access import ANYBODY, Access
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

_MOST_DATA = 1_000_000  # ZooKeeper drops the connection of who sends more (jute.maxbuffer), for ever
_INT32 = 2**31


class ServerSet:
    """A service's members, in ZooKeeper. It connects to nothing until it is used.

    All registrations and watches of one ServerSet share a session; with `client` those of many sets do.

    Args:
        environment: `STAGING`, `PRODUCTION`, …, or any other znode's name.
        service: the service's name; it holds no slash.
        zookeeper: `host:port,host:port/chroot`.
        namespace: where sets lie; placeholders beside `{environment}` and `{service}` are not known here.
        session_timeout: seconds until ZooKeeper gives up a client that is silent, and its members with it.
        client: a kazoo client of the caller's, who starts and stops it; `zookeeper` is then not looked at.
        access: who this is to ZooKeeper, and whether TLS is spoken, as `load_access` makes it.

    Raises:
        BadValueError: a name that cannot be a znode's, a template or an address that is none.
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
        access: Access = ANYBODY,
    ) -> None:
        self.environment = environment
        self.service = service
        self.path = _path(parse_namespace(namespace), environment, service)
        """The znode below which members register."""
        _check_seconds("session_timeout", session_timeout)
        self._client = client  # held, since the session holds it while it is used only
        self._session = (
            Session(parse_connect_string(zookeeper), session_timeout, access=access)
            if client is None
            else Session.of_client(client, session_timeout)
        )

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
        """Become a member, and stay one until the registration is closed.

        Args:
            host: an address or a host name that others reach this service by.
            port: its port; 0 where only additional endpoints can be reached.
            ping: called before registering, and then every `ping_interval` seconds. False or an exception
                unregisters until it succeeds again; so does one that has not returned after `ping_timeout`.
            ping_interval: seconds.
            ping_timeout: seconds; None: the interval, at least one second.
            additional: further endpoints by name: `{"admin": 9990}` on the same host, or `"host:port"`.
            shard: which of the service's shards this is.
            metadata: text by key, for whoever reads it.
            timeout: seconds to wait for ZooKeeper; None: do not wait, and go on trying.

        Raises:
            BadValueError: what cannot be registered, and what is accepted.
            UnreachableError: ZooKeeper could not be reached in time; nothing is registered.
            ZooKeeperError: ZooKeeper refuses, for instance by its ACL; nothing is registered.
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
        """`register`, awaited; `async with` closes it. Cancelled, it has left nothing registered."""
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
        """Follow the members; the first set is there when this returns.

        Args:
            timeout: seconds to wait for ZooKeeper; None: do not wait, and begin without members.

        Raises:
            UnreachableError: ZooKeeper could not be reached in time.
            ZooKeeperError: ZooKeeper refuses, for instance by its ACL.
        """
        watch = SetWatch(self._session, self.path)
        if timeout is not None:
            watch.wait_for_outcome(timeout)
        return watch

    async def watch_async(self, *, timeout: float | None = 10.0) -> SetWatch:
        """`watch`, awaited. Cancelled, it has left nothing that watches."""
        watch = self.watch(timeout=None)
        if timeout is not None:
            await _outcome(watch, timeout)
        return watch


async def _outcome(opened: Registration | SetWatch, timeout: float) -> None:
    """Await its outcome; who is cancelled meanwhile has closed it, since nobody else could."""
    loop = asyncio.get_running_loop()
    try:
        await loop.run_in_executor(None, opened.wait_for_outcome, timeout)
    except asyncio.CancelledError:
        await asyncio.shield(loop.run_in_executor(None, opened.close))  # goes on if cancelled once more
        raise


def make_member(
    host: str,
    port: int,
    *,
    additional: Mapping[str, str | int | tuple[str, int]] | None = None,
    shard: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Member:
    """The member that these make, checked: what is written, every reader can read.

    Raises:
        BadValueError: what is wrong, and what is accepted.
    """
    own = _checked_host(host)
    _check_port(port, 0)
    endpoints = {name: _additional(own, name, value) for name, value in (additional or {}).items()}
    if not port and not endpoints:
        raise BadValueError("port 0 says that only additional endpoints can be reached, and there are none")
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
        raise BadValueError(f"{error.object!r} cannot be written: it is not Unicode text") from None
    if size > _MOST_DATA:
        raise BadValueError(f"the member takes {size} bytes; ZooKeeper accepts less than 1 MB")
    return member


def _additional(own: str, name: str, value: str | int | tuple[str, int]) -> Endpoint:
    if not name or not isinstance(name, str):
        raise BadValueError(f"an additional endpoint is called {name!r}; write a name")
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


def _check_port(port: int, least: int) -> None:
    if type(port) is not int or not least <= port <= MAX_PORT:
        raise BadValueError(f"port {port!r} is none; a port is {least} to {MAX_PORT}")


def _check_seconds(name: str, seconds: float) -> None:
    if not 0 < seconds < math.inf:
        raise BadValueError(f"{name} is {seconds!r}; it is a time in seconds, more than 0")


def _path(namespace: Namespace, environment: str, service: str) -> str:
    own = namespace.steps[namespace.order[0]]
    path = namespace.path_of({"environment": environment, own: service})
    check_znode_path(path)
    return path
