"""A TreeSync in an event loop of its own, and ZooKeeper's contents as another client reads them."""

import asyncio
import contextlib
import json
import random
import socket
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context
from typing import Any, NamedTuple, Self, TypeVar, TypeVarTuple

import msgspec
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError
from kazoo.security import OPEN_ACL_UNSAFE, make_digest_acl

from tests.serverset.session_internals import child_callbacks
from tests.support.waiting import eventually
from tests.support.zookeeper import expire_session
from zkdns.namespace import parse_namespace
from zkdns.serverset.changes import Change
from zkdns.serverset.client import SESSION_TIMEOUT, make_client
from zkdns.serverset.ensemble import Ensemble, continues, merge
from zkdns.serverset.sync import AUDIT_SECONDS, RETRY_SECONDS, SyncState, TreeSync
from zkdns.serverset.sync.strategy import Read
from zkdns.table import Table

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Contents = dict[str, dict[str, str]]
"""By path of the set: `host:port` by member name."""

TIMEOUT = 30.0


class EnsembleShown(NamedTuple):
    """What a connection has shown of its ensemble."""

    shown: Ensemble
    is_same: bool
    """Whether it may be the ensemble of the earlier connections."""


class CountingSync(TreeSync):
    """A TreeSync that counts the responses to its requests for children."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.listed: Counter[str] = Counter()
        """How often the children of each path were requested, with or without success."""
        super().__init__(*arguments, **options)

    def on_children(self, read: Read, names: list[str], czxid: int) -> None:
        self.listed[read.node.path] += 1
        super().on_children(read, names, czxid)

    def on_error(self, read: Read, error: BaseException) -> None:
        self.listed[read.node.path] += 1
        super().on_error(read, error)


class CountingLoop(asyncio.SelectorEventLoop):
    """An event loop that knows its timers."""

    def __init__(self) -> None:
        self._timers: weakref.WeakSet[asyncio.TimerHandle] = weakref.WeakSet()
        super().__init__()

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = super().call_at(when, callback, *args, context=context)
        self._timers.add(timer)
        return timer

    @property
    def pending_timers(self) -> int:
        """The number of timers that have not expired."""
        return sum(not timer.cancelled() and timer.when() > self.time() for timer in self._timers)


class FollowedTree:
    """A running TreeSync, and a table to which its changes are applied.

    The context manager starts and stops it. It is read in its event loop, so between two changes. An
    exception in that loop is raised again at the end.
    """

    def __init__(
        self,
        hosts: str,
        template: str,
        *,
        start: bool = True,
        recursive: bool = True,
        audit_seconds: float = AUDIT_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
        session_timeout: float = SESSION_TIMEOUT,
        read_only: bool = False,
        fail_on_delay: bool = False,
        member_prefix: str = "member_",
        only: Sequence[str] = (),
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.table = Table(departed_seconds=0)
        self.changes: list[Change] = []
        self.states: list[SyncState] = []
        self.log: list[object] = []
        """Delays (True: begun, False: ended), ensembles, changes, states and transactions (int), in order."""
        self.ensemble: Ensemble | None = None
        """The ensemble, with its latest known root and transaction."""
        self.client: Any = make_client(hosts, session_timeout=session_timeout, read_only=read_only)
        self.sync: CountingSync
        self.is_slow = False
        """Whether publications last until `finish`."""
        self.is_busy = False
        """Whether a publication lasts."""
        self._hosts = hosts
        self._template = template
        self._member_prefix = member_prefix
        self._only = only
        self._start = start
        self._wall_clock = wall_clock
        self._recursive = recursive
        self._fail_on_delay = fail_on_delay
        self._intervals = {"audit_seconds": audit_seconds, "retry_seconds": retry_seconds}
        self._socket: socket.socket | None = None
        self._loop = CountingLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._failures: list[object] = []
        self._record_socket()

    def __enter__(self) -> Self:
        self._loop.set_exception_handler(lambda _, context: self._failures.append(context))
        self._thread.start()
        self.read(self._begin)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop()
        self.client.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        assert self._failures == []

    def _begin(self) -> None:
        namespace = parse_namespace(self._template, member_prefix=self._member_prefix)
        patterns = tuple(map(namespace.parse_pattern, self._only))
        namespace = msgspec.structs.replace(namespace, only=patterns)
        self.sync = CountingSync(
            self.client,
            namespace,
            self._publish,
            self._note_state,
            on_delay=self._note_delay,
            on_ensemble=self._note_ensemble,
            on_same_ensemble=self._note_same_ensemble,
            on_zxid=self.log.append,
            wall_clock=self._wall_clock,
            recursive=self._recursive,
            **self._intervals,
        )
        self.sync.queue.is_blocked = lambda: self.is_busy
        if self._start:
            self.client.start_async()

    def _record_socket(self) -> None:
        """Record the client's latest socket, for `disconnect`."""
        connect = self.client.handler.create_connection

        def connect_and_record(*arguments: Any, **options: Any) -> socket.socket:
            connected: socket.socket = connect(*arguments, **options)
            self._socket = connected
            return connected

        self.client.handler.create_connection = connect_and_record

    def finish(self) -> None:
        """End a publication that lasts."""

        def end() -> None:
            self.is_busy = False
            self.sync.queue.resume()

        self.read(end)

    def _publish(self, changes: list[Change]) -> None:
        self.is_busy = self.is_slow
        self.changes += changes
        self.log += changes
        for change in changes:
            self.table.apply(change)

    def _note_state(self, state: SyncState) -> None:
        self.states.append(state)
        self.log.append(state)

    def _note_delay(self, is_delayed: bool) -> None:
        self.log.append(is_delayed)
        if self._fail_on_delay:
            raise RuntimeError("a mistake of the caller")

    def _note_ensemble(self, shown: Ensemble) -> None:
        before = self.ensemble
        is_same = before is None or continues(before, shown)
        self.log.append(EnsembleShown(shown, is_same))
        self.ensemble = merge(before, shown) if is_same else shown

    def _note_same_ensemble(self, shown: Ensemble) -> None:
        self.ensemble = merge(self.ensemble, shown)

    @property
    def delays(self) -> list[bool]:
        """The delays so far: True when one began, False when it ended."""
        return [entry for entry in self.log if isinstance(entry, bool)]

    @property
    def ensembles(self) -> list[EnsembleShown]:
        """What each connection has shown of its ensemble."""
        return [entry for entry in self.log if isinstance(entry, EnsembleShown)]

    @property
    def zxids(self) -> list[int]:
        """The highest transactions of the contents that were reported."""
        return [entry for entry in self.log if type(entry) is int]

    def wait_zxid(self, client: Any) -> int:
        """Wait until the highest transaction of the contents was reported, and return it."""
        return eventually(lambda: self.zxids[-1] == (last := content_zxid(client, self._template)) and last)

    def read(self, function: Callable[[], T]) -> T:
        """Call a function in the event loop, so that nothing changes during the call."""

        async def at_once() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(at_once(), self._loop).result(TIMEOUT)

    @property
    def contents(self) -> Contents:
        """The contents of the table."""
        return self.read(lambda: contents_of(self.table))

    @property
    def state(self) -> SyncState:
        return self.read(lambda: self.sync.state)

    @property
    def is_live(self) -> bool:
        return self.state is SyncState.LIVE

    def wait_live(self) -> Self:
        """Wait until everything was read."""
        eventually(lambda: self.is_live, TIMEOUT)
        return self

    def wait_equal(self, client: Any) -> None:
        """Wait until the table equals ZooKeeper as another client sees it."""

        def differing() -> dict[str, tuple[object, object]]:
            ours, theirs = self.contents, in_zookeeper(client, self._template)
            paths = ours.keys() | theirs.keys()
            return {p: (ours.get(p), theirs.get(p)) for p in paths if ours.get(p) != theirs.get(p)}

        eventually(lambda: self.is_live and not differing(), TIMEOUT)

    def callbacks(self) -> dict[str, int]:
        """The number of kazoo's callbacks for the children of each path."""
        return child_callbacks(self.client)

    @property
    def listed(self) -> Counter[str]:
        """How often the children of each path were requested, with or without success."""
        return self.sync.listed

    @property
    def pending_timers(self) -> int:
        """The number of timers in the event loop."""
        return self.read(lambda: self._loop.pending_timers)

    def disconnect(self) -> None:
        """Break the connection. kazoo connects again, in the same session."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # not connected at the moment
                self._socket.shutdown(socket.SHUT_RDWR)

    def restart(self) -> None:
        """Break the connection and wait for the next one, or make the first one."""
        if self._start:
            before = len(self.states)
            self.disconnect()
            eventually(lambda: len(self.states) > before)
        else:
            self.client.start_async()
        eventually(lambda: self.client.connected)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Prevent connections until the block ends."""
        with socket.socket() as nobody:  # bound but not listening, so that connections are refused
            nobody.bind(("127.0.0.1", 0))
            chroot = self.client.chroot
            self.client.set_hosts(f"127.0.0.1:{nobody.getsockname()[1]}{chroot}")
            self.disconnect()
            eventually(lambda: not self.client.connected)
            yield
            self.client.set_hosts(self._hosts)


def contents_of(table: Table) -> Contents:
    """The contents of a table."""
    return {
        origin: {
            name: f"{member.service.host}:{member.service.port}" if member.service else "none"
            for name, member in owner.members.items()
        }
        for service in table.services.values()
        for origin, owner in service.sets.items()
    }


def in_zookeeper(client: Any, template: str) -> Contents:
    """All valid members in ZooKeeper below a template."""
    paths = [""]
    for step in template[1:].split("/"):
        is_open = step.startswith("{")
        paths = [
            f"{path}/{name}"
            for path in paths
            for name in _children(client, path or "/")
            if (is_open or name == step) and f"{path}/{name}" != "/zookeeper"
        ]
    return {path: _members(client, path) for path in paths}


def content_zxid(client: Any, template: str) -> int:
    """The highest transaction of the contents below a template, as another client reads it."""
    fixed = template[: template.index("/{")] or "/"
    found = [client.exists(fixed).pzxid]
    paths = [fixed]
    for _ in range(template.count("{")):
        paths = [f"{path.rstrip('/')}/{name}" for path in paths for name in _children(client, path)]
        found += [stat.pzxid for path in paths if (stat := client.exists(path))]
    members = [f"{path}/{name}" for path in paths for name in _children(client, path)]
    members = [path for path in members if path.rpartition("/")[2].startswith(("member_", "vector_"))]
    return int(max(found + [stat.mzxid for path in members if (stat := client.exists(path))]))


def others_in_zookeeper(client: Any, template: str) -> dict[str, set[str]]:
    """By path of the set: the names of its children that are no members."""
    return {
        path: {name for name in _children(client, path) if not name.startswith(("member_", "vector_"))}
        for path in in_zookeeper(client, template)
    }


def _children(client: Any, path: str) -> list[str]:
    with contextlib.suppress(NoNodeError):
        names: list[str] = client.get_children(path)
        return names
    return []


def _members(client: Any, path: str) -> dict[str, str]:
    members = {}
    for name in _children(client, path):
        with contextlib.suppress(NoNodeError, ValueError, KeyError):
            endpoint = json.loads(client.get(f"{path}/{name}")[0])["serviceEndpoint"]
            if name.startswith("member_"):
                members[name] = f"{endpoint['host']}:{endpoint['port']}"
    return members


def data(host: str = "10.0.0.1", port: int = 80) -> bytes:
    """A member's data as go.serversets writes it."""
    return (
        f'{{"serviceEndpoint":{{"host":"{host}","port":{port}}},"additionalEndpoints":{{}},"status":"ALIVE"}}'
    ).encode()


def join(client: Any, path: str, host: str = "10.0.0.1", port: int = 80) -> str:
    """Register a member whose znode outlives its session. Returns its path."""
    made: str = client.create(f"{path}/member_", data(host, port), sequence=True, makepath=True)
    return made


def join_many(client: Any, path: str, count: int) -> list[str]:
    """Register many members at once. Returns their paths."""
    client.ensure_path(path)
    requested = [
        client.create_async(f"{path}/member_", data(f"10.1.{n // 250}.{n % 250}"), sequence=True)
        for n in range(count)
    ]
    return [result.get(timeout=TIMEOUT) for result in requested]


def leave_many(client: Any, paths: list[str]) -> None:
    """Delete many znodes at once."""
    for result in [client.delete_async(path) for path in paths]:
        result.get(timeout=TIMEOUT)


def delete_at_once(client: Any, path: str) -> None:
    """Delete a znode with its descendants, in one transaction."""
    transaction = client.transaction()
    for below in (*reversed(_all_below(client, path)), path):
        transaction.delete(below)
    assert [result for result in transaction.commit() if isinstance(result, Exception)] == []


def remake(client: Any, path: str) -> None:
    """Delete a znode with its descendants and create it again, in one transaction: it is never missing."""
    transaction = client.transaction()
    for below in reversed(_all_below(client, path)):
        transaction.delete(below)
    transaction.delete(path)
    transaction.create(path)
    assert [result for result in transaction.commit() if isinstance(result, Exception)] == []


def _all_below(client: Any, path: str) -> list[str]:
    found = []
    for name in client.get_children(path):
        found += [f"{path}/{name}", *_all_below(client, f"{path}/{name}")]
    return found


class Locked:
    """Makes znodes inaccessible to all clients but their owner, until the block ends."""

    def __init__(self, hosts: str, *paths: str) -> None:
        self._owner = KazooClient(hosts=hosts, auth_data=[("digest", "owner:secret")])
        self._paths = paths

    def __enter__(self) -> None:
        self._owner.start()
        self._set_acls([make_digest_acl("owner", "secret", all=True)])

    def __exit__(self, *_: object) -> None:
        self._set_acls(OPEN_ACL_UNSAFE)
        self._owner.stop()
        self._owner.close()

    def _set_acls(self, acls: list[Any]) -> None:
        for path in self._paths:
            with contextlib.suppress(NoNodeError):  # deleted in the meantime
                self._owner.set_acls(path, acls)


def complaints(logs: list[Any]) -> list[Any]:
    """The log entries about znodes that cannot be read."""
    return [entry for entry in logs if entry["event"] == "znode_read_failed"]


class RandomActions:
    """Does one random action per call."""

    def __init__(self, client: Any, root: str, tree: FollowedTree, dice: random.Random) -> None:
        self._client = client
        self._root = root
        self._tree = tree
        self._dice = dice
        self._made = 0
        self._actions: dict[Callable[[], None], int] = {
            self._join: 50,
            self._join_other: 15,
            self._leave: 30,
            self._change: 15,
            self._replace: 5,
            self._delete_service: 6,
            self._remake_service: 6,
            self._delete_environment: 2,
            self._remake_environment: 3,
            self._remake_root: 1,
            tree.disconnect: 2,
            self._expire: 1,
        }

    def __call__(self) -> None:
        (action,) = self._dice.choices(list(self._actions), list(self._actions.values()))
        with contextlib.suppress(NoNodeError):
            action()

    def _environment(self) -> str:
        return f"{self._root}/{self._dice.choice(['prod', 'staging', 'test'])}"

    def _service(self) -> str:
        return f"{self._environment()}/{self._dice.choice(['api', 'web', 'db', 'cache'])}"

    def _join(self) -> None:
        path = self._service()
        self._client.ensure_path(path)
        self._client.create(f"{path}/member_", self._new_data(), sequence=True)

    def _join_other(self) -> None:
        """Create a child that is no member. The other actions change and delete it like a member."""
        path = self._service()
        self._client.ensure_path(path)
        self._client.create(f"{path}/node-", self._new_data(), sequence=True)

    def _leave(self) -> None:
        if path := self._member():
            self._client.delete(path)

    def _change(self) -> None:
        if path := self._member():
            self._client.set(path, self._new_data())

    def _replace(self) -> None:
        """Delete a member and create it again under its name, in one transaction."""
        if path := self._member():
            change = self._client.transaction()
            change.delete(path)
            change.create(path, self._new_data())
            change.commit()

    def _member(self) -> str | None:
        service = self._service()
        members = self._client.get_children(service)
        return f"{service}/{self._dice.choice(sorted(members))}" if members else None

    def _new_data(self) -> bytes:
        self._made += 1
        return data(f"10.2.{self._made // 250}.{self._made % 250}")

    def _delete_service(self) -> None:
        self._client.delete(self._service(), recursive=True)

    def _remake_service(self) -> None:
        remake(self._client, self._service())

    def _delete_environment(self) -> None:
        self._client.delete(self._environment(), recursive=True)

    def _remake_environment(self) -> None:
        remake(self._client, self._environment())

    def _remake_root(self) -> None:
        remake(self._client, self._root)

    def _expire(self) -> None:
        with contextlib.suppress(RuntimeError):  # there is no session at the moment
            expire_session(self._tree.client)
