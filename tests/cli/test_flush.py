"""`zkdns flush` against running servers, and where there are none."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli import Command, Ended, run
from tests.daemon.ipc.feed_helpers import until
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from zkdns.daemon.ipc.control import ControlServer
from zkdns.daemon.ipc.control_messages import Flushed, LossesAccepted, Response

pytestmark = pytest.mark.processes


def flush(server: ZkdnsServer, *arguments: str) -> Ended:
    return run("flush", *arguments, environment={"ZKDNS_CONTROL": server.control})


def test_every_process_that_answers_is_told() -> None:
    with ZkdnsServer("--demo", "--workers", "2", "--upstream", "192.0.2.1") as server:
        server.wait_ready()
        eventually(lambda: Path(server.control).exists())
        assert flush(server) == (0, "forgotten: everything, by 2 processes\n", "")
        assert flush(server, "www.example.com") == (
            0,
            "forgotten: www.example.com and what lies below, by 2 processes\n",
            "",
        )
        told = flush(server, "www.example.com", "--json").output
        assert json.loads(told) == {"name": "www.example.com", "flushed_workers": 2, "workers": 2}
        mistaken = flush(server, "a..b")
        assert (mistaken.status, mistaken.output) == (2, "")
        assert "'a..b' is not a domain name" in mistaken.errors
        own = flush(server, "web.staging.discovery")
        assert (own.status, own.output) == (1, "")
        assert own.errors.startswith(
            "zkdns: web.staging.discovery lies in the zone discovery, which is never"
        )


def test_a_server_that_forwards_nothing_says_so() -> None:
    with ZkdnsServer("--demo", "--upstream", "none") as server:
        server.wait_ready()
        eventually(lambda: Path(server.control).exists())
        assert flush(server) == (1, "", "zkdns: this server forwards nothing, so nothing is cached\n")


def test_where_no_server_is_the_status_is_3(short_path: Path) -> None:
    control = str(short_path / "control")
    ended = run("flush", "--control", control)
    assert (ended.status, ended.output) == (3, "")
    assert ended.errors.startswith(f"zkdns: no server listens at {control}; start one, or name another's")
    ended = run("flush", "--control", "none")
    assert ended == (3, "", "zkdns: there is no control socket; name the server's with --control FILE\n")


@contextlib.asynccontextmanager
async def responding(path: str, response: Response) -> AsyncIterator[None]:
    server = ControlServer(path, lambda _: response)
    await server.start()
    try:
        yield
    finally:
        server.close()


@pytest.mark.parametrize(
    ("response", "ended"),
    [
        (Flushed(1, 1), (0, "forgotten: everything, by 1 process\n", "")),
        (Flushed(1, 2), (1, "", "zkdns: of 2 processes that answer 1 could be told; try again\n")),
        (LossesAccepted(()), (3, "", "zkdns: the server at {} is of another version of zkdns\n")),
    ],
)
def test_what_the_server_responds_is_told(
    short_path: Path, response: Response, ended: tuple[int, str, str]
) -> None:
    control = str(short_path / "control")

    async def scenario() -> Ended:
        async with responding(control, response):
            with Command("flush", "--control", control) as command:
                await until(lambda: command.process.poll() is not None)
                return Ended(command.wait(), command.output, command.errors)

    assert asyncio.run(scenario()) == (ended[0], ended[1], ended[2].format(control))
