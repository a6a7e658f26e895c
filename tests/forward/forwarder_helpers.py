"""A forwarder as part of a worker: with response caches, sockets and an event loop of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.edns
import dns.flags
import dns.message
import dns.rcode
from structlog.testing import capture_logs

from tests.forward.resolution_helpers import PATIENT, until
from tests.support.upstream import (
    UDP,
    Behaviour,
    ReceivedQuery,
    Send,
    UpstreamServer,
    correct_answer,
    reply_to,
)
from tests.support.waiting import PATIENCE
from zkdns.address import HostPort, UpstreamAddress
from zkdns.config import CacheSettings, Config, ForwardSettings, ForwardZoneSettings
from zkdns.dns.authority import Authority
from zkdns.dns.edns import MIN_UDP_SIZE
from zkdns.dns.message import parse_query
from zkdns.forward.cache import Entry
from zkdns.forward.forwarder import Forwarder, group_of_question
from zkdns.forward.own_names import make_own_names
from zkdns.forward.upstreams import UdpTimes
from zkdns.namespace import parse_namespace
from zkdns.table import Table
from zkdns.transport.codecs import TcpCodec, UdpCodec
from zkdns.transport.contract import DeferredResponse, Deliver
from zkdns.transport.sockets import bind, bound_address, packed_address
from zkdns.transport.tcp import TcpServer
from zkdns.transport.udp import UdpServer

NAMESPACE = parse_namespace("/discovery/{environment}/{service}")
SECRET = b"0123456789abcdef"
WWW = "www.example"
_RD = dns.flags.RD
_CACHE_BYTES = 16 << 20


class Clock:
    """The forwarder's clock; it advances only by `Scene.pass_time`."""

    def __init__(self) -> None:
        self.now = float(int(time.monotonic()))

    def __call__(self) -> float:
        return self.now


class Scene:
    """A server that forwards, and its client.

    Attributes:
        clock: the clock of the forwarder.
        table: the table of its zone; call `authority.refresh` after changes.
        errors: internal errors in the answers to queries.
    """

    def __init__(self, config: Config, **limits: Any) -> None:
        self.clock = Clock()
        self.errors: list[Exception] = []
        pair = bind(HostPort("127.0.0.1", 0), 1)[0]
        self.address = bound_address(pair)
        self._pair = pair
        self.table = Table()
        self.authority = Authority(self.table, config, lambda _query, error: self.errors.append(error))
        self.authority.set_health(ready=True, stale=False)
        self.forwarder = Forwarder(config, [self.address], SECRET, self.clock, **limits)
        self.forwarder.cache.on_removed = self._forget
        self.forwarder.on_change = self.authority.forget_all
        self.forwarder.own_names = make_own_names(self.authority)
        self.authority.responder.fallback = self.forwarder
        answers = partial(self.authority.make_cache, max_bytes=_CACHE_BYTES)
        self.datagrams, self.streams = answers(UdpCodec, stream=False), answers(TcpCodec, stream=True)
        self.udp = UdpServer(pair.udp, self.datagrams)
        self.tcp = TcpServer(pair.tcp, self.streams)

    def _forget(self, entry: Entry) -> None:
        """Drop the cached responses made from an entry, as a worker does."""
        if entry.hits:
            self.authority.forget_forwarded(group_of_question(entry.question))

    async def start(self) -> None:
        self.forwarder.start()
        self.udp.start()
        await self.tcp.start()

    async def stop(self) -> None:
        self.forwarder.stop()
        self.udp.stop()
        self.tcp.stop()
        for _ in range(3):  # closed connections call connection_lost
            await asyncio.sleep(0)
        self._pair.close()

    @property
    def questions_sent(self) -> int:
        """Number of questions for upstreams, however many queries each took."""
        return sum(zone.resolver.questions for zone in self.forwarder.zones.all)

    def pass_time(self, seconds: float) -> None:
        """Advance the clock of the forwarder."""
        self.clock.now += seconds
        self.forwarder.poll()

    def begin(self, deliver: Deliver, name: str = WWW, client: str = "127.0.0.1") -> None:
        """Let an A query of a client wait for its response at the forwarder."""
        query = parse_query(dns.message.make_query(name, "A").to_wire())
        response = next(self.forwarder.answer(query, MIN_UDP_SIZE, lambda body, _question: body).responses)
        assert isinstance(response, DeferredResponse)
        response.start(deliver, packed_address(client))

    async def query(
        self,
        name: str = WWW,
        qtype: str = "A",
        *,
        tcp: bool = False,
        flags: int = _RD,
        size: int | None = None,
        options: Iterable[dns.edns.Option] = (),
        do: bool = False,
    ) -> dns.message.Message:
        """Send a query; return the response.

        Args:
            name: the name.
            qtype: the type.
            tcp: whether to use TCP instead of UDP.
            flags: flags of the header.
            size: the UDP size in the OPT record; None: no EDNS.
            options: EDNS options.
            do: whether to request DNSSEC records.
        """
        made = dns.message.make_query(name, qtype, flags=flags)
        if size is not None:
            made.use_edns(0, dns.flags.DO if do else 0, size, options=list(options))
        send = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
        return await send(made, self.address.host, port=self.address.port, timeout=PATIENCE)

    def querying(
        self, name: str = WWW, qtype: str = "A", **options: Any
    ) -> asyncio.Task[dns.message.Message]:
        """Send a query in a task."""
        return asyncio.get_running_loop().create_task(self.query(name, qtype, **options))

    async def data(self, name: str = WWW, qtype: str = "A", **options: Any) -> list[str]:
        """Send a query; return the data of the answer records."""
        return data_of(await self.query(name, qtype, **options))

    async def ttl(self, name: str = WWW, qtype: str = "A", **options: Any) -> int:
        """Send a query; return the TTL of the only RRset in the answer."""
        (rrset,) = (await self.query(name, qtype, **options)).answer
        return int(rrset.ttl)

    async def rcode(self, name: str = WWW, qtype: str = "A", **options: Any) -> str:
        """Send a query; return the response code by name."""
        return rcode_of(await self.query(name, qtype, **options))

    async def cached(self, name: str = WWW, qtype: str = "A", **options: Any) -> dns.message.Message:
        """Send a query until the response cache has an entry for it; return its response."""
        cache = self.streams if options.get("tcp") else self.datagrams
        before = len(cache)
        for _ in range(5):
            response = await self.query(name, qtype, **options)
            if len(cache) > before:
                return response
        raise AssertionError("the response is not cached")


@asynccontextmanager
async def forwarding(
    *upstreams: UpstreamServer | UpstreamAddress,
    domains: Mapping[str, Iterable[UpstreamServer | UpstreamAddress]] | None = None,
    resolv_conf: Path | None = None,
    trust_ad: bool = False,
    forward: Mapping[str, Any] | None = None,
    udp_times: UdpTimes = PATIENT,
    cache: CacheSettings = CacheSettings(),  # noqa: B008 - it is frozen
    **limits: Any,
) -> AsyncIterator[Scene]:
    """Run a server with these upstreams; fail on internal errors.

    `forward` has more settings of forwarding. With `resolv_conf`, the server has `upstreams = "auto"`, and
    this is the file of the system. `limits` are keyword arguments of `Forwarder`. By default, no query is
    sent again because an upstream is late, so a test can count queries on a busy machine.
    """
    if resolv_conf is not None:
        limits["system_files"] = [resolv_conf]
    config = Config(
        listen=(),
        namespaces=(NAMESPACE,),
        forward=ForwardSettings(
            upstreams="auto" if resolv_conf is not None else _addresses(upstreams),
            trust_ad=trust_ad,
            **(forward or {}),
            zones={name: ForwardZoneSettings(_addresses(each)) for name, each in (domains or {}).items()},
        ),
        cache=cache,
    )
    with capture_logs() as logs:
        scene = Scene(config, udp_times=udp_times, **limits)
        await scene.start()
        try:
            yield scene
        finally:
            await scene.stop()
    assert scene.errors == []
    assert scene.forwarder.waiting == 0
    assert [
        entry
        for entry in logs
        if entry["log_level"] == "error" and entry["event"] != "upstream_loop_detected"
    ] == []


def _addresses(servers: Iterable[UpstreamServer | UpstreamAddress]) -> tuple[UpstreamAddress, ...]:
    return tuple(one.address if isinstance(one, UpstreamServer) else one for one in servers)


def data_of(response: dns.message.Message) -> list[str]:
    """Return the data of the answer records."""
    return [record.to_text() for rrset in response.answer for record in rrset]


def rcode_of(response: dns.message.Message) -> str:
    return dns.rcode.to_text(response.rcode())


def extended_errors(response: dns.message.Message) -> list[int]:
    """Return the codes of the extended errors (RFC 8914)."""
    return [int(option.code) for option in response.options if isinstance(option, dns.edns.EDEOption)]


def queries_to(upstream: UpstreamServer, name: str = WWW) -> int:
    """Return the number of UDP queries for a name at an upstream, which also receives loop probes."""
    return len(upstream.queries_over(UDP, name))


def has(*records: str) -> Behaviour:
    """Reply with these records of the queried name, each as `ttl type data`."""
    return lambda received: [Send(reply_to(received, *(f"{received.name} {record}" for record in records)))]


def numbered(ttl: int = 60) -> Behaviour:
    """Reply with 198.51.100.1 to the first query, 198.51.100.2 to the second, and so on."""
    count = 0

    def act(received: ReceivedQuery) -> list[Send]:
        nonlocal count
        count += not received.name.endswith("loop.zkdns.example.")
        return [Send(reply_to(received, f"{received.name} {ttl} A 198.51.100.{count}"))]

    return act


class Waits:
    """Reply to nothing until `release` is called."""

    def __init__(self) -> None:
        self._received: list[ReceivedQuery] = []

    def __call__(self, received: ReceivedQuery) -> list[Send]:
        self._received.append(received)
        return []

    async def release(self, upstream: UpstreamServer, name: str = WWW) -> None:
        """Reply to the queries for a name that this upstream has received; wait for the first one."""
        await until(lambda: self._queries(name))
        for received in self._queries(name):
            upstream.send_datagram(correct_answer(received), received.port)

    def _queries(self, name: str) -> list[ReceivedQuery]:
        return [received for received in list(self._received) if received.name == f"{name}."]
