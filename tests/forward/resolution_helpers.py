"""Questions sent to test upstreams by a `Resolver`, in the event loop of a worker."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import dns.message

from tests.support.waiting import repeated_if_late
from zkdns.address import UpstreamAddress
from zkdns.dns.message import Type, parse_query
from zkdns.forward.message import Question, build_query
from zkdns.forward.reply import Reply
from zkdns.forward.resolution import Failure
from zkdns.forward.resolver import Resolver
from zkdns.forward.tcp_client import TcpTimes
from zkdns.forward.upstreams import UdpTimes
from zkdns.transport.event_loop import ServingLoop

_LIMIT = 90.0  # seconds; long enough for a busy machine
PATIENT = UdpTimes(first=60.0, shortest=60.0, longest=60.0)
"""Time-outs that no upstream exceeds, so that a test can count queries on a busy machine."""
PATIENT_TCP = TcpTimes(idle=60.0, stalled=math.inf)
"""The same for connections."""


def question(name: str, qtype: int = Type.A) -> Question:
    labels = [label.encode() for label in name.split(".") if label]
    return Question(b"".join(bytes([len(label)]) + label for label in labels) + b"\0", qtype)


def now() -> float:
    """The time of the event loop."""
    return asyncio.get_running_loop().time()


@repeated_if_late
def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine in a serving loop; fail if an exception reaches the loop. Repeat it if it is late."""
    uncaught: list[dict[str, Any]] = []

    async def limited() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: uncaught.append(context))
        async with asyncio.timeout(_LIMIT):
            await scenario()

    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        runner.run(limited())
    assert uncaught == []


@asynccontextmanager
async def running_resolver(*servers: UpstreamAddress, **options: Any) -> AsyncIterator[Resolver]:
    """Run a resolver. By default, no query is sent again because an upstream is late (see `PATIENT`)."""
    resolver = Resolver(servers, **{"udp_times": PATIENT, "tcp_times": PATIENT_TCP} | options)
    resolver.start()
    try:
        yield resolver
    finally:
        resolver.stop()
        for _ in range(3):  # closed connections call connection_lost
            await asyncio.sleep(0)


def resolving(resolver: Resolver, question_or_name: Question | str) -> asyncio.Future[Reply | Failure]:
    """Resolve a question; check that the outcome is reported once, after `resolve` has returned."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Reply | Failure] = loop.create_future()
    expected = question(question_or_name) if isinstance(question_or_name, str) else question_or_name
    has_returned = False

    def on_outcome(reported: Question, outcome: Reply | Failure) -> None:
        assert has_returned
        assert reported == expected
        result.set_result(outcome)  # raises if called twice

    resolver.resolve(expected, on_outcome)
    has_returned = True
    return result


async def resolve(resolver: Resolver, question_or_name: Question | str) -> Reply | Failure:
    return await resolving(resolver, question_or_name)


async def answer(resolver: Resolver, question_or_name: Question | str) -> list[str]:
    """Resolve a question; return the data of the answer records, or fail if there is no reply."""
    outcome = await resolve(resolver, question_or_name)
    assert isinstance(outcome, Reply), outcome
    return data_of(
        outcome, question(question_or_name) if isinstance(question_or_name, str) else question_or_name
    )


def bad_messages(resolver: Resolver) -> int:
    """Return the number of messages that answer no query, from all upstreams."""
    return sum(upstream.bad_messages for upstream in resolver.upstreams.all)


async def failure(resolver: Resolver, question_or_name: Question | str) -> Failure:
    outcome = await resolve(resolver, question_or_name)
    assert isinstance(outcome, Failure), outcome
    return outcome


def data_of(reply: Reply, resolved: Question) -> list[str]:
    """Return the data of the answer records, read by dnspython."""
    rendered = reply.render(parse_query(build_query(resolved, 1)), 65535, 0)
    return [item.to_text() for rrset in dns.message.from_wire(rendered).answer for item in rrset]


async def until(condition: Callable[[], object], timeout: float = 30.0) -> None:
    """Wait until a condition is true."""
    end = asyncio.get_running_loop().time() + timeout
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"not within {timeout:g} s"
        await asyncio.sleep(0.002)
