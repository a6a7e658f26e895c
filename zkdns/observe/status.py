"""What the admin address knows of the server: what it is told, and whom it asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Literal, Protocol, TypeAlias

import msgspec

from zkdns.address import HostPort
from zkdns.errors import ZkdnsError
from zkdns.observe.figures import AnswererFigures

Source: TypeAlias = Literal["zookeeper", "snapshot", "fixed", "demo"]
"""`snapshot`: from that alone, without ZooKeeper; `fixed`: a file; `demo`: the embedded example."""


class RequestError(ZkdnsError):
    """A request cannot be done; the text is a sentence for whoever sent it, `status` the status of HTTP."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        self.status = status
        super().__init__(sentence)


class ZooKeeperStatus(msgspec.Struct, frozen=True):
    """How things are with ZooKeeper."""

    hosts: str
    state: str | None
    """One of `STATES`; None: the process that watches has not told yet."""
    stale_seconds: float
    """For how long it has been out of reach; 0: it is not."""


class TableStatus(msgspec.Struct, frozen=True):
    """How much is in the table; members are told by what becomes of them."""

    services: int
    alive: int
    hidden: int
    held: int
    bad: int | None
    """None: not counted, since nothing is read from ZooKeeper."""


class WorkerStatus(msgspec.Struct, frozen=True):
    """A process that answers."""

    pid: int | None
    """None: it has ended, and another one is being started."""
    ready: bool
    """Whether it has a table."""


class UpstreamStatus(msgspec.Struct, frozen=True):
    """A resolver that other names are asked of, as all workers together see it."""

    address: str
    domain: str
    """Whose names it is asked for; empty: all that are no other's."""
    dead: bool
    """Whether none of the workers asks it now, since it does not answer."""
    rtt_seconds: float | None
    """The shortest of the times that its answers take; None: not known."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The server at one moment; times are Unix times."""

    version: str
    ready: bool
    """Whether every worker has a table."""
    zones: tuple[str, ...]
    listening: tuple[str, ...]
    source: Source
    """Where the services come from."""
    zookeeper: ZooKeeperStatus | None
    """None: nothing is read from ZooKeeper."""
    table: TableStatus | None
    """None: the process that watches has not told yet."""
    workers: tuple[WorkerStatus, ...]
    upstreams: tuple[UpstreamStatus, ...]
    started: float
    now: float


class Entry(Protocol):
    """Something that happened to a service; JSON can be made of it."""

    @property
    def number(self) -> int:
        """Greater than that of all that happened before."""


class History(Protocol):
    """Entries, the oldest first; JSON can be made of it."""

    @property
    def entries(self) -> Sequence[Entry]:
        """All of them."""

    @property
    def last(self) -> int:
        """After which number to ask next."""


class Explanation(Protocol):
    """What a name is; JSON can be made of it."""

    @property
    def kind(self) -> str:
        """`absent` where there is no such name."""

    @property
    def rule(self) -> str:
        """What the name is, in a sentence."""


class Server(Protocol):
    """The server, as the admin address sees it. What is asked of its processes raises `RequestError`."""

    @property
    def is_ready(self) -> bool:
        """Whether every answerer has a table."""

    @property
    def names(self) -> Sequence[str]:
        """By which host names browsers may ask, beside addresses and localhost; in lower case."""

    @property
    def token_file(self) -> str | None:
        """Path of the file with the token of those who may change something; None: nobody may."""

    def status(self) -> Status:
        """The server now."""

    def answerers(self) -> Mapping[int, AnswererFigures]:
        """What each answerer counts, by its process number."""

    def metrics(self, openmetrics: bool) -> str:
        """All figures in Prometheus' words, or in OpenMetrics'; may be called from another thread."""

    async def silent(self) -> Sequence[HostPort]:
        """At which of its addresses the server does not answer DNS within a second."""

    async def services(self) -> Sequence[object]:
        """Each service in numbers."""

    async def explain(self, name: str) -> Explanation:
        """What a name is, and why it is answered as it is."""

    async def history(self, service: str | None, after: int, most: int) -> History:
        """Who came and went since the entry `after`; of one service or of all."""

    async def accept(self, service: str | None) -> object:
        """Let go of members that are held, of one service or of all."""

    async def flush(self, name: str | None) -> object:
        """Forget what is cached of a name and what lies below it, or everything."""

    async def reload(self) -> object:
        """Read the configuration again, and put it in force.

        Raises:
            RequestError: it has mistakes, or cannot be put in force.
        """
