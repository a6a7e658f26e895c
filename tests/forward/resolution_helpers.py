"""Questions asked of resolvers through Exchanges, in the loop that workers have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import dns.message
from zkdns.dns.message import Type, parse_query
from zkdns.transport.event_loop import ServingLoop

from zkdns.address import UpstreamAddress
from zkdns.forward.message import build_query
from zkdns.forward.question import Question
from zkdns.forward.reply import Reply
from zkdns.forward.resolution import Failure
from zkdns.forward.resolver import Resolver

_LIMIT = 90.0  # seconds; a machine that is busy takes its time


def question(name: str, qtype: int = Type.A) -> Question:
    labels = [label.encode() for label in name.split(".") if label]
    return Question(b"".join(bytes([len(label)]) + label for label in labels) + b"\0", qtype)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it in a serving loop; nothing may escape into that."""
    strays: list[dict[str, Any]] = []

    async def limited() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: strays.append(context))
        async with asyncio.timeout(_LIMIT):
            await scenario()

    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        runner.run(limited())
    assert strays == []


@asynccontextmanager
async def exchanging(*servers: UpstreamAddress, **options: Any) -> AsyncIterator[Resolver]:
    exchanges = Resolver(servers, **options)
    exchanges.start()
    try:
        yield exchanges
    finally:
        exchanges.stop()
        for _ in range(3):  # let closed connections tell that they are
            await asyncio.sleep(0)


def asking(exchanges: Resolver, what: Question | str) -> asyncio.Future[Reply | Failure]:
    """Ask, and see to it that the outcome comes once, and not from within."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Reply | Failure] = loop.create_future()
    has_returned = False

    def done(result: Reply | Failure) -> None:
        assert has_returned
        outcome.set_result(result)  # twice is an error

    exchanges.ask(question(what) if isinstance(what, str) else what, done)
    has_returned = True
    return outcome


async def ask(exchanges: Resolver, what: Question | str) -> Reply | Failure:
    return await asking(exchanges, what)


async def answer(exchanges: Resolver, what: Question | str) -> list[str]:
    """The data of the answer's records; that there is none fails."""
    outcome = await ask(exchanges, what)
    assert isinstance(outcome, Reply), outcome
    return data_of(outcome, question(what) if isinstance(what, str) else what)


async def failure(exchanges: Resolver, what: Question | str) -> Failure:
    outcome = await ask(exchanges, what)
    assert isinstance(outcome, Failure), outcome
    return outcome


def data_of(reply: Reply, asked: Question) -> list[str]:
    """The data of the answer's records, as another implementation reads them."""
    rendered = reply.render(parse_query(build_query(asked, 1)), 65535, 0)
    return [item.to_text() for rrset in dns.message.from_wire(rendered).answer for item in rrset]


async def until(condition: Callable[[], object], timeout: float = 30.0) -> None:
    """Wait until something is true, while the loop goes on."""
    end = asyncio.get_running_loop().time() + timeout
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"not within {timeout:g} s"
        await asyncio.sleep(0.002)
