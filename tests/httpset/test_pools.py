"""HTTP over a server set: connections are kept while they are useful, and closed afterwards."""

import asyncio
import gc
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.http2 import Http2Handler, offering_http2
from tests.support.http_clients import Httpx, Httpx2, Requests
from tests.support.waiting import eventually
from tests.support.web import WebServer, fixed, make_certificate, refusing, servers
from zkdns import FixedSet
from zkdns.balance import RoundRobin
from zkdns.httpset import AsyncTransport, Transport
from zkdns.httpset.pools import Pool, Pools


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Without the garbage collector, which would hide connections that are not closed."""
    gc.disable()
    yield
    gc.enable()


def live_pools() -> list[Pool[Any]]:
    """All pools of connections that anything in this process refers to."""
    gc.collect()
    return [found for found in gc.get_objects() if isinstance(found, Pool)]


@pytest.mark.parametrize("kind", [Httpx, Httpx2, Requests])
def test_threads_share_one_transport(kind: Any) -> None:
    with servers(3) as started:
        source = fixed(started)
        caller = kind(source, None)
        answers: list[str] = []

        def run() -> None:
            answers.extend(caller.request("GET", "http://web/").text for _ in range(30))

        threads = [threading.Thread(target=run) for _ in range(6)]
        for thread in threads:
            thread.start()
        for turn in range(20):
            source.set_endpoints([server.endpoint for server in started[turn % 2 :]])
        for thread in threads:
            thread.join()
        caller.close()
    assert len(answers) == 180


def test_failed_and_cancelled_asynchronous_requests_leave_their_pools() -> None:
    """A pool with one user too many would outlive its endpoint for ever."""
    before = len(live_pools())

    async def scenario(gone: WebServer, stays: WebServer, nobody: str) -> None:
        source = fixed([gone], nobody)
        async with httpx2.AsyncClient(transport=AsyncTransport(source)) as client:
            hanging = [asyncio.create_task(client.get("http://web/hang")) for _ in range(2)]
            await asyncio.to_thread(
                eventually, lambda: len(gone.requests) == 2
            )  # one of them after a failed connection
            for task in hanging:
                task.cancel()
            assert len(await asyncio.gather(*hanging, return_exceptions=True)) == 2
            gone.go_on.set()
            source.set_endpoints([stays.endpoint])
            await client.get("http://web/")
            del hanging, task
            assert len(live_pools()) == before + 1
            await asyncio.to_thread(eventually, lambda: not gone.open)

    with servers(2) as (gone, stays), refusing() as nobody:
        asyncio.run(scenario(gone, stays, nobody))


def test_failed_requests_leave_their_pools() -> None:
    before = len(live_pools())
    with servers(1) as (server,), refusing() as nobody:
        source = FixedSet([nobody, server.endpoint])
        with httpx2.Client(transport=Transport(source)) as client:
            for _ in range(2):
                client.get("http://web/")
            assert len(live_pools()) == before + 2
            source.set_endpoints([server.endpoint])
            client.get("http://web/")
            assert len(live_pools()) == before + 1


def test_a_request_cancelled_while_it_closes_connections_leaves_none_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(stays: WebServer, gone: list[WebServer]) -> None:
        source = fixed([stays, *gone])
        take = Pools.take_departed

        def cancelling(pools: Pools[Any], endpoints: tuple[str, ...]) -> Iterator[Any]:
            for departed in take(pools, endpoints):
                task.cancel()  # which takes effect when it closes this one
                yield departed

        async with httpx2.AsyncClient(transport=AsyncTransport(source)) as client:
            for _ in range(4):
                await client.get("http://web/")
            source.set_endpoints([stays.endpoint])
            with monkeypatch.context() as patch:
                patch.setattr(Pools, "take_departed", cancelling)
                task = asyncio.create_task(client.get("http://web/"))
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert any(server.open for server in gone)
            await client.get("http://web/")
            await asyncio.to_thread(eventually, lambda: not any(server.open for server in gone))

    with servers(4) as (stays, *gone):
        asyncio.run(scenario(stays, gone))


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("kind", [Httpx, Httpx2, Requests])
def test_a_connection_to_an_endpoint_that_has_just_left_is_closed(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The endpoint leaves between choosing and connecting, and another request notices first."""
    with servers(2) as (gone, stays):
        source = fixed([gone])
        caller = kind(source, None)
        pick = RoundRobin.pick

        def interrupted(balancer: RoundRobin, **options: Any) -> str:
            monkeypatch.undo()
            chosen = pick(balancer, **options)
            source.set_endpoints([stays.endpoint])
            assert caller.request("GET", "http://web/").text == stays.endpoint
            return chosen

        monkeypatch.setattr(RoundRobin, "pick", interrupted)
        assert caller.request("GET", "http://web/").text == gone.endpoint
        assert caller.request("GET", "http://web/").text == stays.endpoint
        eventually(lambda: not gone.open)
        assert stays.accepted == 1
        caller.close()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("kind", [Httpx, Httpx2, Requests])
def test_failures_keep_no_connection_of_a_departed_endpoint(kind: Any) -> None:
    with servers(2) as (gone, stays), refusing() as nobody:
        source = fixed([gone], nobody)
        caller = kind(source, None)
        for _ in range(2):  # one of the two after a failed connection
            assert caller.request("GET", "http://web/").text == gone.endpoint
        source.set_endpoints([stays.endpoint])
        caller.request("GET", "http://web/")
        eventually(lambda: not gone.open)
        caller.close()


def test_http2_has_a_connection_for_each_endpoint_and_name(tmp_path: Path) -> None:
    context, trusted = make_certificate(tmp_path, "web.example", "api.example")
    trusting = ssl.create_default_context(cafile=trusted)
    names = ["web.example"] * 4 + ["api.example"] * 4

    async def scenario(source: FixedSet) -> None:
        transport = AsyncTransport(source, verify=trusting, http2=True)
        async with httpx2.AsyncClient(transport=transport) as client:
            for name in names:
                first, second = await asyncio.gather(*(client.get(f"https://{name}/x") for _ in range(2)))
                assert {first.http_version, second.http_version} == {"HTTP/2"}

    with servers(2, tls=offering_http2(context), handler=Http2Handler) as started, refusing() as nobody:
        source = fixed(started, nobody)
        with httpx2.Client(transport=Transport(source, verify=trusting, http2=True)) as client:
            for name in names:
                answer = client.get(f"https://{name}/x")
                assert answer.http_version == "HTTP/2"
                assert str(answer.url) == f"https://{name}/x"
        assert [server.accepted for server in started] == [2, 2]
        assert [len(server.requests) for server in started] == [4, 4]
        asyncio.run(scenario(source))
        assert [server.accepted for server in started] == [4, 4]
        seen = {(one.tls_name, one.host, one.path) for server in started for one in server.requests}
    assert seen == {(name, name, "/x") for name in names}


def test_missing_http2_support_is_reported_before_anything_is_sent() -> None:
    program = (
        "import sys; sys.modules['h2'] = None\n"
        "from zkdns.httpset import AsyncTransport, Transport\n"
        "Transport(); AsyncTransport(http2=False)\n"
        "for kind in (Transport, AsyncTransport):\n"
        "    try: kind(http2=True)\n"
        "    except ImportError as error: print(type(error).__name__, error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    sentence = "MissingExtraError http2=True needs h2: pip install h2"
    assert ran.stdout.splitlines() == [sentence, sentence]
