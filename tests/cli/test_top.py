"""`zkdns top` with real servers, in terminals and without one."""

from __future__ import annotations

import json
import re
import signal
import socket
import termios
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli import Command, Ended, Terminal, run
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.web import refusing

pytestmark = pytest.mark.processes

WEB = "web.staging.discovery"


@pytest.fixture(scope="module")
def server() -> Iterator[ZkdnsServer]:
    with ZkdnsServer("--demo") as running:
        yield running.wait_ready()


def objects(command: Command) -> list[dict[str, Any]]:
    whole, _, _ = command.output.rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def test_json_prints_an_object_each_second_without_losing_queries(server: ZkdnsServer) -> None:
    with Command("top", "--server", server.admin, "--json") as command:
        eventually(lambda: objects(command))
        for _ in range(30):
            server.query(WEB, "SRV")
        server.query("none.staging.discovery", "AAAA", tcp=True)

        def seen(kind: str, name: str) -> int:
            counts: list[float] = [one[kind].get(name, 0.0) * one["seconds"] for one in objects(command)]
            return round(sum(counts))

        eventually(lambda: seen("rcodes", "NXDOMAIN") and seen("rcodes", "NOERROR") >= 30)
        assert (seen("types", "SRV"), seen("types", "AAAA")) == (30, 1)
        assert (seen("sources", "response_cache"), seen("sources", "zone")) == (29, 2)
        assert (seen("transports", "udp"), seen("transports", "tcp")) == (30, 1)
        last = objects(command)[-1]
        assert (last["services"], last["members"]["alive"], last["zookeeper"]) == (6, 13, None)
        command.signal(signal.SIGINT)
        assert command.wait() == 0
        assert command.errors == ""


@pytest.mark.parametrize("arguments", [(), ("--once",)])
def test_without_a_terminal_it_prints_one_plain_table(
    server: ZkdnsServer, arguments: tuple[str, ...]
) -> None:
    ended = run("top", "--server", server.admin, *arguments)
    assert (ended.status, ended.errors) == (0, "")
    assert re.match(rf"zkdns [\d.]+ at {server.admin}, up .*\n[\d,.]+ queries/s \(", ended.output)
    assert "\np50 " in ended.output
    assert "; hits: response cache " in ended.output
    assert "6 services, members: 13 alive\n" in ended.output
    assert "\x1b" not in ended.output


@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "Ctrl-C"])
def test_a_terminal_shows_it_live_until_a_key_and_is_restored(server: ZkdnsServer, key: bytes) -> None:
    with Terminal("top", "--server", server.admin) as terminal:
        before = termios.tcgetattr(terminal.master)
        eventually(
            lambda: re.search(r"0 queries/s \(tcp 0, udp 0\)|0 queries/s \(udp 0, tcp 0\)", terminal.screen)
        )
        server.query(WEB, "TXT")
        eventually(lambda: re.search(r"TXT +0\.[2-5]", terminal.screen))
        assert "\x1b[?1049h" in terminal.written
        terminal.type(b"x" + key)
        assert terminal.wait() == 0
        assert terminal.written.count("\x1b[?1049l") == 1
        assert termios.tcgetattr(terminal.master) == before
        assert "Traceback" not in terminal.screen


def test_sigterm_restores_the_terminal_too(server: ZkdnsServer) -> None:
    with Terminal("top", "--server", server.admin) as terminal:
        eventually(lambda: "queries/s" in terminal.screen)
        terminal.process.terminate()
        assert terminal.wait() == 0
        assert terminal.written.count("\x1b[?1049l") == 1


def test_a_lost_server_is_shown_with_the_time_and_retried() -> None:
    with socket.socket() as held:
        # Reserves the port; with SO_REUSEADDR the server can bind it all the same.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        with Terminal("top", "--server", f"http://{address}") as terminal:
            cause = rf"no server listens at http://{address} \(connection refused\)"
            lost = rf"{cause}; start one, .*; trying again, since \d\d:\d\d:\d\d"
            eventually(lambda: re.search(lost, terminal.screen))
            with ZkdnsServer("--demo", environment={"ZKDNS_ADMIN": address}):
                eventually(lambda: "6 services" in terminal.screen)
            shown = len(terminal.screen)
            eventually(lambda: re.search(lost, terminal.screen[shown:]))
            terminal.type(b"q")
            assert terminal.wait() == 0


def test_once_without_a_server_is_an_error_with_status_3() -> None:
    with refusing() as address:
        for arguments in ((), ("--json",)):
            ended = run("top", "--once", "--server", f"http://{address}", *arguments)
            assert (ended.status, ended.output) == (3, "")
            assert ended.errors.startswith(
                f"zkdns: no server listens at http://{address} (connection refused); start one"
            )


def test_the_default_is_the_configured_socket_or_address(server: ZkdnsServer) -> None:
    environment = {"ZKDNS_ADMIN_SOCKET": server.api}
    assert run("top", "--once", environment=environment).output.startswith(f"zkdns 0.1.0 at {server.api}, ")
    environment = {"ZKDNS_ADMIN": server.admin.removeprefix("http://")}
    assert run("top", "--once", environment=environment).output.startswith(f"zkdns 0.1.0 at {server.admin}, ")
    missing = "zkdns: no address of a server is configured; name the server with --server URL\n"
    assert run("top", environment={"ZKDNS_ADMIN": "none"}) == Ended(2, "", missing)
    invalid = run("top", "--server", "localhost")
    assert invalid.status == 2
    assert invalid.errors.startswith(
        "zkdns: --server: 'localhost' is neither a URL nor a path; write http://"
    )
