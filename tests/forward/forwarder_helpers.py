"""A forwarder at work as workers have it: with its memos, between sockets, in a serving loop of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import dns.asyncquery
import dns.edns
import dns.flags
import dns.message
import dns.rcode
from structlog.testing import capture_logs
from zkdns.transport.codecs import TcpCodec, UdpCodec

from tests.support.upstream import (
    UDP,
    Behaviour,
    ReceivedQuery,
    Send,
    UpstreamServer,
    correct_answer,
    reply_to,
)
from tests.support.waiting import eventually
from zkdns.address import HostPort, UpstreamAddress
from zkdns.config import CacheSettings, Config, ForwardSettings, ForwardZoneSettings
from zkdns.dns.authority import Authority
from zkdns.forward.forwarder import MAX_WAITING, Forwarder, group_of_question
from zkdns.namespace import parse_namespace
from zkdns.table import Table
from zkdns.transport.sockets import bind, bound_address
from zkdns.transport.tcp import TcpServer
from zkdns.transport.udp import UdpServer

NAMESPACE = parse_namespace("/discovery/{environment}/{service}")
SECRET = b"0123456789abcdef"
WWW = "www.example"
_SECONDS = 6.0
_RD = dns.flags.RD
_MEMO_BYTES = 16 << 20


class Clock:
    """Seconds that pass when a test says so; the rest of the world has its own."""

    def __init__(self) -> None:
        self.now = float(int(time.monotonic()))

    def __call__(self) -> float:
        return self.now


class Scene:
    """A server that forwards, and who asks it.

    Attributes:
        clock: the forwarder's.
        strays: queries of which the answer was a mistake.
    """

    def __init__(self, config: Config, max_waiting: int = MAX_WAITING) -> None:
        self.clock = Clock()
        self.strays: list[Exception] = []
        pair = bind(HostPort("127.0.0.1", 0), 1)[0]
        self.address = bound_address(pair)
        self._pair = pair
        self.authority = Authority(Table(), config, lambda _query, error: self.strays.append(error))
        self.authority.responder.ready = True
        self.forwarder = Forwarder(config, [self.address], SECRET, self.clock, max_waiting=max_waiting)
        self.forwarder.cache.on_gone = lambda question: self.authority.forget_elsewhere(
            group_of_question(question)
        )
        self.forwarder.on_change = self.authority.forget_all
        self.authority.responder.elsewhere = self.forwarder
        answers = partial(self.authority.answers, most_bytes=_MEMO_BYTES)
        self.datagrams, self.streams = answers(UdpCodec, stream=False), answers(TcpCodec, stream=True)
        self.udp = UdpServer(pair.udp, self.datagrams)
        self.tcp = TcpServer(pair.tcp, self.streams)

    async def start(self) -> None:
        self.forwarder.start()
        self.udp.start()
        await self.tcp.start()

    async def stop(self) -> None:
        self.forwarder.stop()
        self.udp.stop()
        self.tcp.stop()
        for _ in range(3):  # let closed connections tell that they are
            await asyncio.sleep(0)
        self._pair.close()

    @property
    def exchanges_asked(self) -> int:
        """How many questions upstreams were asked, however often each."""
        return sum(route.exchanges.asked for route in self.forwarder.routes.all)

    def pass_time(self, seconds: float) -> None:
        """Let so many seconds be over."""
        self.clock.now += seconds
        assert self.forwarder._timer is not None
        self.forwarder._timer.cancel()
        self.forwarder._tick()

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
        """Ask; the whole response.

        Args:
            name: of which to ask.
            qtype: the type.
            tcp: whether over TCP, or else over UDP.
            flags: of the header.
            size: what EDNS says of UDP; None: no EDNS.
            options: of EDNS.
            do: whether DNSSEC's records are wanted.
        """
        made = dns.message.make_query(name, qtype, flags=flags)
        if size is not None:
            made.use_edns(0, dns.flags.DO if do else 0, size, options=list(options))
        ask = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
        return await ask(made, self.address.host, port=self.address.port, timeout=_SECONDS)

    def asking(self, name: str = WWW, qtype: str = "A", **how: Any) -> asyncio.Task[dns.message.Message]:
        """Ask, and wait later."""
        return asyncio.get_running_loop().create_task(self.query(name, qtype, **how))

    async def data(self, name: str = WWW, qtype: str = "A", **how: Any) -> list[str]:
        """Ask; the data of the answer's records."""
        return data_of(await self.query(name, qtype, **how))

    async def ttl(self, name: str = WWW, qtype: str = "A", **how: Any) -> int:
        """Ask; the TTL of the one RRset of the answer."""
        (rrset,) = (await self.query(name, qtype, **how)).answer
        return int(rrset.ttl)

    async def rcode(self, name: str = WWW, qtype: str = "A", **how: Any) -> str:
        """Ask; the response code by name."""
        return rcode_of(await self.query(name, qtype, **how))

    async def remembered(self, name: str = WWW, qtype: str = "A", **how: Any) -> dns.message.Message:
        """Ask until the answer is remembered; that one."""
        memo = self.streams if how.get("tcp") else self.datagrams
        before = len(memo)
        for _ in range(5):
            response = await self.query(name, qtype, **how)
            if len(memo) > before:
                return response
        raise AssertionError("it is not remembered")


@asynccontextmanager
async def forwarding(
    *upstreams: UpstreamServer | UpstreamAddress,
    domains: Mapping[str, Iterable[UpstreamServer | UpstreamAddress]] | None = None,
    is_auto: bool = False,
    trust_ad: bool = False,
    max_waiting: int = MAX_WAITING,
    cache: CacheSettings = CacheSettings(),  # noqa: B008 - it is frozen
) -> AsyncIterator[Scene]:
    """A server that asks these, or as the machine is configured; nothing may be wrong with it afterwards."""
    config = Config(
        listen=(),
        namespaces=(NAMESPACE,),
        forward=ForwardSettings(
            upstreams="auto" if is_auto else _addresses(upstreams),
            trust_ad=trust_ad,
            zones={name: ForwardZoneSettings(_addresses(each)) for name, each in (domains or {}).items()},
        ),
        cache=cache,
    )
    with capture_logs() as logs:
        scene = Scene(config, max_waiting)
        await scene.start()
        try:
            yield scene
        finally:
            await scene.stop()
    assert scene.strays == []
    assert scene.forwarder.waiting == 0
    assert [
        entry
        for entry in logs
        if entry["log_level"] == "error" and entry["event"] != "upstream_loop_detected"
    ] == []


def _addresses(servers: Iterable[UpstreamServer | UpstreamAddress]) -> tuple[UpstreamAddress, ...]:
    return tuple(one.address if isinstance(one, UpstreamServer) else one for one in servers)


def data_of(response: dns.message.Message) -> list[str]:
    """The data of the answer's records."""
    return [record.to_text() for rrset in response.answer for record in rrset]


def rcode_of(response: dns.message.Message) -> str:
    return dns.rcode.to_text(response.rcode())


def extended_errors(response: dns.message.Message) -> list[int]:
    """The codes of its extended errors (RFC 8914)."""
    return [int(option.code) for option in response.options if isinstance(option, dns.edns.EDEOption)]


def asked_of(resolver: UpstreamServer, name: str = WWW) -> int:
    """How often a resolver was asked for a name over UDP; it is asked for others too, to look for loops."""
    return len(resolver.queries_over(UDP, name))


def has(*records: str) -> Behaviour:
    """A reply with these records, of the name that is asked: each as `ttl type data`."""
    return lambda asked: [Send(reply_to(asked, *(f"{asked.name} {record}" for record in records)))]


def numbered(ttl: int = 60) -> Behaviour:
    """The first answer has 198.51.100.1, the second 198.51.100.2, and so on."""
    count = 0

    def act(asked: ReceivedQuery) -> list[Send]:
        nonlocal count
        count += not asked.name.endswith("loop.zkdns.example.")
        return [Send(reply_to(asked, f"{asked.name} {ttl} A 198.51.100.{count}"))]

    return act


class Waits:
    """Nothing comes until `release`."""

    def __init__(self) -> None:
        self.asked: list[ReceivedQuery] = []

    def __call__(self, asked: ReceivedQuery) -> list[Send]:
        self.asked.append(asked)
        return []


def release(resolver: UpstreamServer, name: str = WWW) -> None:
    """Let a resolver that waits with its answers give those that it was asked for a name, one at least."""
    act = resolver._behaviours.get(f"{name}.", resolver._behaviour)
    assert isinstance(act, Waits)
    for asked in eventually(lambda: [one for one in act.asked if one.name == f"{name}."]):
        resolver.send_datagram(correct_answer(asked), asked.port)
