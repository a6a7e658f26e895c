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

from tests.cli import Command, ScreenTerminal, Terminal, run
from tests.support.forked_command import Ended
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.web import refusing

pytestmark = pytest.mark.processes

WEB = "web.staging.discovery"


@pytest.fixture(scope="module")
def server() -> Iterator[ZkdnsServer]:
    with ZkdnsServer("--demo", "--top-names", "--upstream", "192.0.2.53") as running:
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
        assert (last["services"], last["members"]["alive"], last["source_state"]) == (6, 13, None)
        command.signal(signal.SIGINT)
        assert command.wait() == 0
        assert command.errors == ""


@pytest.mark.parametrize("arguments", [(), ("--once",)])
def test_without_a_terminal_it_prints_one_plain_table(
    server: ZkdnsServer, arguments: tuple[str, ...]
) -> None:
    ended = run("top", "--server", server.admin, *arguments)
    assert (ended.status, ended.errors) == (0, "")
    assert re.match(rf"zkdns [\d.]+ at {server.admin}, up .*\n[\d,.]+ queries/s", ended.output)
    assert re.search(r"\nlatency +per second +p50 +p99\n", ended.output)
    assert "\nresponse cache: " in ended.output
    assert "6 services, members: 13 alive\n" in ended.output
    assert "\x1b" not in ended.output


@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "Ctrl-C"])
def test_a_terminal_shows_it_live_until_a_key_and_is_restored(server: ZkdnsServer, key: bytes) -> None:
    with Terminal("top", "--server", server.admin) as terminal:
        before = termios.tcgetattr(terminal.master)
        eventually(lambda: "0 queries/s" in terminal.screen)
        eventually(lambda: server.query(WEB, "TXT") and re.search(r"TXT +[\d.]*[1-9]", terminal.screen))
        assert "\x1b[?1049h" in terminal.written
        terminal.type(b"x" + key)
        assert terminal.wait() == 0
        assert terminal.written.count("\x1b[?1049l") == 1
        assert termios.tcgetattr(terminal.master) == before
        assert "Traceback" not in terminal.screen


def test_once_prints_the_chosen_view(server: ZkdnsServer) -> None:
    arguments = ("top", "--once", "--server", server.admin, "--view")
    long = f"{'x' * 60}.{'y' * 60}.staging.discovery"
    for _ in range(3):
        server.query(WEB)
        server.query(WEB)  # the most frequent name, and so on the first line
        server.query(long)
        server.query("tcp.staging.discovery", tcp=True)
    output = run(*arguments, "names").output
    assert {long, "tcp.staging.discovery"} <= set(output.split())
    assert re.search(
        r"\nname +queries/s +client +queries/s\n.*web\.staging\.discovery +[\d.]+ +127\.0\.0\.1 ", output
    )
    assert re.search(r"\n192\.0\.2\.53:53 +up ", run(*arguments, "upstreams").output)

    def queries() -> dict[str, float] | None:
        """The rates of the services, unless no query was sent in the second of the measurement."""
        with Command(*arguments, "services", "--json") as command:
            while command.process.poll() is None:
                server.query(WEB)
            services = {one["name"]: one["queries"] for one in objects(command)[0]["services_by_rate"]}
        return services if services["web.staging"] else None

    services = eventually(queries)
    assert services["ipv6-only.staging"] == 0
    assert len(services) == 6


def test_every_view_fits_80_by_24(server: ZkdnsServer) -> None:
    with ScreenTerminal("top", "--server", server.admin) as terminal:

        def shows(*patterns: str) -> bool:
            return all(map(terminal.has_line, patterns))

        footer = r"^1 overview  2 services  3 upstreams  4 names  s sort  / filter  \? help  q quit$"
        eventually(lambda: shows(r"^zkdns .* at http", r"^latency +per second +p50 +p99$", footer))
        server.query(WEB, "SRV")
        eventually(lambda: shows(r"^(zone|response cache) +0\.[2-5] +SRV +0\.[2-5] +NOERROR +0\.[2-5]$"))
        assert not shows("AAAA|NXDOMAIN|tcp")  # rows of zeros

        terminal.type(b"2")
        eventually(lambda: shows(r"^service +queries/s +members +held$", footer))
        server.query(WEB)
        eventually(lambda: shows(r"^web\.staging +[\d.]+ +3 +0$", r"^1 of 6 services, by queries/s$"))
        terminal.type(b"s")
        eventually(lambda: shows(r", by members$"))
        terminal.type(b"/Staging v2")
        eventually(lambda: shows(r"^api\.v2\.staging +0 +2 +0$", r"^/Staging v2█$"))
        terminal.type(b"\r")
        eventually(lambda: shows(r"by members, with “Staging v2”$", footer))
        terminal.type(b"\x1b")
        eventually(lambda: shows(r"by members$"))

        terminal.type(b"3")
        eventually(lambda: shows(r"^192\.0\.2\.53:53 +up ", r"^1 of 1 upstreams"))
        terminal.type(b"\t")
        eventually(lambda: shows(r"^name +queries/s +client +queries/s$", r"^web\.staging\.discovery +"))
        terminal.type(b"?")
        eventually(lambda: shows(r"^/ +filter by parts of names", r"p50 and p99"))
        terminal.type(b"?1")
        eventually(lambda: shows(r"^latency +per second"))
        terminal.type(b"q")
        assert terminal.wait() == 0


def test_a_small_terminal_shows_less_and_a_resize_draws_anew(server: ZkdnsServer) -> None:
    with ScreenTerminal("top", "--server", server.admin, "--view", "services", size=(10, 40)) as terminal:
        eventually(lambda: terminal.has_line(r"^1-4  s  /  \?  q$|^1-4 views"))
        for _ in range(3):
            server.query("m1.api.v2.staging.discovery")
        eventually(lambda: terminal.has_line(r"^api\.v2\.staging +[\d.]+ +2 +0$"))
        assert max(map(len, terminal.lines)) <= 40
        terminal.resize(24, 80)
        eventually(lambda: terminal.has_line(r"q quit$"))
        terminal.type(b"1")
        eventually(lambda: terminal.has_line(r"^latency"))
        terminal.resize(8, 40)
        eventually(lambda: terminal.lines[-1].startswith("1-4"))
        terminal.type(b"\x03")
        assert terminal.wait() == 0


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
        with ScreenTerminal("top", "--server", f"http://{address}", "--view", "services") as terminal:
            cause = rf"no server listens at http://{address} \(connection refused\)"
            lost = rf"{cause}; start one, .*; trying again, since \d\d:\d\d:\d\d"
            eventually(lambda: re.search(lost, " ".join(terminal.lines)))
            with ZkdnsServer("--demo", environment={"ZKDNS_ADMIN": address}):
                eventually(lambda: terminal.has_line(r"^\d of 6 services"))
            eventually(lambda: re.search(lost, " ".join(terminal.lines)))
            terminal.type(b"2?")  # keys have an effect all the same
            with ZkdnsServer("--demo", environment={"ZKDNS_ADMIN": address}):
                eventually(lambda: terminal.has_line("filter by parts"))
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
