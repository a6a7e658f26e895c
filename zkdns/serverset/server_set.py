"""`ServerSet`: one service in one environment, for registering and watching members."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from zkdns.address import MAX_PORT, ZOOKEEPER_PORT, parse_connect_string, parse_host_port, parse_servers
from zkdns.errors import BadValueError
from zkdns.namespace import (
    MEMBER_PREFIX,
    check_znode_path,
    checked_znode_name,
    parse_member_prefix,
    parse_namespace,
)
from zkdns.serverset.auth import ANONYMOUS, Access
from zkdns.serverset.member import (
    MAX_ADDITIONAL,
    MAX_DATA,
    Endpoint,
    Member,
    canonical_host,
    encode_member,
)
from zkdns.serverset.ping import Ping, check_seconds
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

PathFunction: TypeAlias = Callable[[str, str], str]
"""Returns the path of a set for its environment and service: `lambda environment, service: …`."""

_INT32 = 2**31


class ServerSet:
    """The members of a service in ZooKeeper. It connects on first use.

        web = ServerSet(PRODUCTION, "web", "zk01:2181,zk02:2181")
        with web.register("10.0.0.1", 8080), web.watch() as watch:
            print(watch.endpoints)  # ('10.0.0.1:8080',)

    All registrations and watches share one session, also those of other sets with the same `zookeeper`,
    `session_timeout` and `access` (with TLS: the same object). It ends with the last of them.

    Args:
        environment: `STAGING`, `PRODUCTION`, or any other name of a znode.
        service: the service's name, without a slash.
        zookeeper: `host:port,host:port/chroot`, or a list of `host:port`. In a list, the last one may end in
            the chroot, which applies to all.
        namespace: the template of paths, with the placeholders `{environment}` and `{service}` only; or a
            function of environment and service that returns the path. Its exceptions are not changed.
        member_prefix: the beginning of the names of members' znodes. ZooKeeper appends a sequence number.
        session_timeout: seconds without contact after which ZooKeeper ends the session, and its members.
        client: a kazoo client that the caller starts and stops. `zookeeper` is then ignored.
        access: credentials and TLS, as made by `zkdns.serverset.auth.load_access`.
        own_session: whether this set has a session, connection and threads that no other set uses.

    Raises:
        BadValueError: an invalid name, template, path, prefix or address.
    """

    def __init__(
        self,
        environment: str,
        service: str,
        zookeeper: str | Sequence[str] = DEFAULT_ZOOKEEPER,
        *,
        namespace: str | PathFunction = DEFAULT_NAMESPACE,
        member_prefix: str = MEMBER_PREFIX,
        session_timeout: float = 5.0,
        client: KazooClient | None = None,
        access: Access = ANONYMOUS,
        own_session: bool = False,
    ) -> None:
        self.environment = environment
        self.service = service
        self.path = _path(namespace, environment, service)
        """The path of the set: the members are the children of this znode."""
        self._member_prefix = _checked_prefix(member_prefix)
        check_seconds("session_timeout", session_timeout)
        self._client = client  # a strong reference, which the session has only while it has users
        if client is not None:
            self._session = Session.of_client(client, session_timeout)
        elif own_session:
            self._session = Session(parse_connect_string(zookeeper), session_timeout, access=access)
        else:
            self._session = Session.shared(parse_connect_string(zookeeper), session_timeout, access)

    @property
    def hosts(self) -> tuple[str, ...]:
        """`host:port` of each ZooKeeper server, in the order given, without the chroot."""
        return tuple(map(str, parse_servers(self._session.hosts)))

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
            ZooKeeperError: ZooKeeper refuses, for instance because of its ACL, or the chroot of the connect
                string does not exist. Nothing is registered.
        """
        member = make_member(host, port, additional=additional, shard=shard, metadata=metadata)
        check_seconds("ping_interval", ping_interval)
        if ping_timeout is None:
            ping_timeout = max(ping_interval, 1.0)
        check_seconds("ping_timeout", ping_timeout)
        registration = Registration(
            self._session,
            self.path,
            member,
            service=f"{self.service}.{self.environment}" if self.environment else self.service,
            ping=ping,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            prefix=self._member_prefix,
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
            await registration.wait_for_outcome_async(timeout)
        return registration

    def watch(self, *, timeout: float | None = 10.0) -> SetWatch:
        """Watch the members. The first set is available when this returns.

        Args:
            timeout: seconds to wait for ZooKeeper. None: return at once, without members at first.

        Raises:
            UnreachableError: ZooKeeper was not reached in time.
            ZooKeeperError: ZooKeeper refuses, for instance because of its ACL, or the chroot of the connect
                string does not exist.
        """
        watch = SetWatch(self._session, self.path, self._member_prefix)
        if timeout is not None:
            watch.wait_for_outcome(timeout)
        return watch

    async def watch_async(self, *, timeout: float | None = 10.0) -> SetWatch:
        """As `watch`, for asyncio. Cancellation closes the watch."""
        watch = self.watch(timeout=None)
        if timeout is not None:
            await watch.wait_for_outcome_async(timeout)
        return watch


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
    if len(endpoints) > MAX_ADDITIONAL:
        raise BadValueError(f"{len(endpoints)} additional endpoints; readers accept at most {MAX_ADDITIONAL}")
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
    if size > MAX_DATA:
        raise BadValueError(f"the member takes {size} bytes; readers accept at most {MAX_DATA}")
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


def _checked_prefix(prefix: str) -> str:
    try:
        return parse_member_prefix(prefix)
    except BadValueError as error:
        raise BadValueError(f"member_prefix {error}") from None


def _path(namespace: str | PathFunction, environment: str, service: str) -> str:
    """The path of a set.

    Raises:
        BadValueError: an invalid template, environment or service, or a function that returns no path.
    """
    if callable(namespace):
        checked_znode_name("environment", environment)
        checked_znode_name("service", service)
        return _checked_path(namespace(environment, service), f"namespace({environment!r}, {service!r})")
    if not isinstance(namespace, str):
        raise BadValueError(
            f"namespace is {namespace!r}; write a template such as {DEFAULT_NAMESPACE!r}, or a function of "
            "environment and service"
        )
    parsed = parse_namespace(namespace)
    own = parsed.steps[parsed.order[0]]
    path = parsed.path_of({"environment": environment, own: service})
    check_znode_path(path)
    return path


def _checked_path(path: object, call: str) -> str:
    """Check the path that a function has returned. `call` is the call in the error."""
    if not isinstance(path, str) or path == "/":
        raise BadValueError(f"{call} is {path!r}, not the path of a set, such as '/discovery/prod/web'")
    try:
        check_znode_path(path)
    except BadValueError as error:
        raise BadValueError(f"{call}: {error}") from None
    return path
