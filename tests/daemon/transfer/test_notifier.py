"""NOTIFY to secondaries: content, repetitions, coalescing, and which responses count."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype

from zkdns.address import HostPort
from zkdns.config.model import NotifyTarget
from zkdns.daemon.transfer.notifier import Notifier
from zkdns.dns.tsig import make_key

ZONE, INNER = (b"discovery",), (b"inner", b"discovery")
KEY = make_key("one", "hmac-sha256", b"a secret of these tests")

Respond = Callable[[dns.message.Message], list[bytes]]


class Secondary(asyncio.DatagramProtocol):
    """A secondary that responds as a function decides."""

    def __init__(self, respond: Respond) -> None:
        self.received: asyncio.Queue[dns.message.Message] = asyncio.Queue()
        self.sources: set[str] = set()
        self._respond = respond

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        message = dns.message.from_wire(data, keyring={KEY.name: KEY})
        self.received.put_nowait(message)
        self.sources.add(addr[0])
        for response in self._respond(message):
            self.transport.sendto(response, addr)


def accept(query: dns.message.Message, rcode: int = 0) -> list[bytes]:
    response = dns.message.make_response(query)
    response.set_rcode(dns.rcode.Rcode(rcode))
    return [response.to_wire()]


async def at_once() -> None:
    """The workers have each version."""


def run(
    respond: Respond,
    test: Callable[[Notifier, Secondary], object],
    *,
    key: str | None = None,
    listening: tuple[HostPort, ...] = (),
    until_answered: Callable[[], Awaitable[None]] = at_once,
    **options: object,
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        _, secondary = await loop.create_datagram_endpoint(
            lambda: Secondary(respond), local_addr=("127.0.0.1", 0)
        )
        target = NotifyTarget(HostPort("127.0.0.1", secondary.port), key)
        notifier = Notifier([target], {KEY.name: KEY}, listening, until_answered, **options)  # type: ignore[arg-type]
        running = asyncio.create_task(notifier.run())
        result = test(notifier, secondary)
        assert asyncio.iscoroutine(result)
        await asyncio.wait_for(result, 60.0)
        running.cancel()
        secondary.transport.close()

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the notifier has no event for its counters
        await asyncio.sleep(0.005)


def test_a_notify_has_the_zone_and_no_more_than_one_is_sent() -> None:
    async def test(notifier: Notifier, secondary: Secondary) -> None:
        notifier.notify(ZONE)
        query = await secondary.received.get()
        assert query.opcode() == dns.opcode.NOTIFY
        assert query.flags & dns.flags.AA
        assert not query.flags & dns.flags.RD
        (question,) = query.question
        assert (question.name.to_text(), question.rdtype) == ("discovery.", dns.rdatatype.SOA)
        await until(lambda: notifier.results["acknowledged"] == 1)
        await asyncio.sleep(0.1)
        assert secondary.received.empty()

    run(accept, test, pauses=(0.01,))


def test_it_is_sent_again_until_a_limit() -> None:
    async def test(notifier: Notifier, secondary: Secondary) -> None:
        notifier.notify(ZONE)
        await until(lambda: notifier.results["unanswered"] == 3)
        await asyncio.sleep(0.1)
        assert notifier.results["unanswered"] == secondary.received.qsize() == 3
        notifier.notify(ZONE)  # the next version is another chance
        await until(lambda: notifier.results["unanswered"] == 6)

    run(lambda _: [], test, pauses=(0.01, 0.02), response_seconds=0.02)


def test_a_new_version_does_not_wait_for_a_repetition() -> None:
    """A secondary that was restarted gets it at once. One that is away gets one NOTIFY for each version."""
    is_away = True

    async def test(notifier: Notifier, secondary: Secondary) -> None:
        nonlocal is_away
        for number in range(1, 4):
            notifier.notify(ZONE)
            await until(lambda number=number: notifier.results["unanswered"] == number)  # type: ignore[misc]
        is_away = False
        notifier.notify(INNER)
        await until(lambda: notifier.results["acknowledged"] == 2)
        assert secondary.received.qsize() == 5

    run(lambda query: [] if is_away else accept(query), test, pauses=(1000.0,), response_seconds=0.5)


def test_versions_of_a_pending_notify_share_it() -> None:
    async def test(notifier: Notifier, secondary: Secondary) -> None:
        for _ in range(10):
            notifier.notify(ZONE)
            notifier.notify(INNER)
        await until(lambda: notifier.results["acknowledged"] == 2)
        await asyncio.sleep(0.1)
        assert secondary.received.qsize() == 2

    run(accept, test)


def test_only_a_response_to_the_query_counts() -> None:
    """Another id, the query itself and garbage are ignored."""

    def respond(query: dns.message.Message) -> list[bytes]:
        (right,) = accept(query)
        wrong = bytearray(right)
        wrong[0] ^= 1
        return [bytes(wrong), query.to_wire(), b"garbage", right]

    async def test(notifier: Notifier, _secondary: Secondary) -> None:
        notifier.notify(ZONE)
        await until(lambda: notifier.results["acknowledged"] == 1)
        assert notifier.results["unanswered"] == 0

    run(respond, test)


def test_a_refusal_is_counted() -> None:
    async def test(notifier: Notifier, _secondary: Secondary) -> None:
        notifier.notify(ZONE)
        await until(lambda: notifier.results["refused"] == 2)

    run(lambda query: accept(query, 5), test, pauses=(0.01,))


def test_a_signed_notify_needs_a_signed_response() -> None:
    is_signed = False

    def respond(query: dns.message.Message) -> list[bytes]:
        nonlocal is_signed
        assert query.had_tsig
        responses = accept(query) if is_signed else [dns.message.make_response(strip(query)).to_wire()]
        is_signed = True
        return responses

    def strip(query: dns.message.Message) -> dns.message.Message:
        plain = dns.message.make_query(query.question[0].name, "SOA", id=query.id)
        plain.set_opcode(dns.opcode.NOTIFY)
        return plain

    async def test(notifier: Notifier, _secondary: Secondary) -> None:
        notifier.notify(ZONE)
        await until(lambda: notifier.results["acknowledged"] == 1)
        assert notifier.results["unanswered"] == 1

    run(respond, test, key="one", pauses=(0.01, 0.01), response_seconds=0.2)


def test_it_leaves_from_the_address_at_which_the_server_listens() -> None:
    async def test(notifier: Notifier, secondary: Secondary) -> None:
        notifier.notify(ZONE)
        await secondary.received.get()
        assert secondary.sources == {"127.0.0.9"}

    run(accept, test, listening=(HostPort("::1", 53), HostPort("127.0.0.9", 53)))


def test_a_notify_waits_until_the_workers_have_the_version() -> None:
    asked, may_go_on = asyncio.Event(), asyncio.Event()

    async def until_answered() -> None:
        asked.set()
        await may_go_on.wait()

    async def test(notifier: Notifier, secondary: Secondary) -> None:
        notifier.notify(ZONE)
        await asked.wait()
        await asyncio.sleep(0.05)
        assert secondary.received.empty()
        may_go_on.set()
        await secondary.received.get()
        assert secondary.received.empty()

    run(accept, test, until_answered=until_answered)
