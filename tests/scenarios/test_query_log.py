"""The query log of a real server: a line for each query, and none by default."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dns.edns
import pytest

from tests.support.server import ZkdnsServer
from tests.support.upstream import UpstreamServer, answers
from tests.support.waiting import eventually

pytestmark = pytest.mark.processes

WEB, WWW, LONG = "web.staging.discovery", "www.example", "a" * 60 + "." + "b" * 60 + ".staging.discovery"


@pytest.fixture(scope="module")
def upstream() -> Iterator[UpstreamServer]:
    with UpstreamServer(answers) as resolver:
        yield resolver


@pytest.fixture(scope="module")
def server(upstream: UpstreamServer) -> Iterator[ZkdnsServer]:
    with ZkdnsServer("--demo", "--upstream", str(upstream.address), "--log-queries", "1") as running:
        yield running.wait_ready()


def logged(server: ZkdnsServer, name: str, qtype: str, times: int = 1, **how: Any) -> list[dict[str, Any]]:
    """Send a query `times` times, and return its log entries."""
    before = len(server.events("query_answered"))
    for _ in range(times):
        server.query(name, qtype, **how)
    lines = eventually(
        lambda: (
            len(server.events("query_answered")) == before + times
            and server.events("query_answered")[before:]
        )
    )
    assert isinstance(lines, list)
    return lines


@pytest.mark.parametrize("tcp", [False, True])
def test_each_query_is_a_line_with_all_fields(server: ZkdnsServer, *, tcp: bool) -> None:
    line, _ = logged(server, "Web.staging.discovery" if tcp else WEB, "SRV", 2, tcp=tcp)
    assert 0 < line.pop("microseconds") < 1e6
    line.pop("timestamp")
    assert line == {
        "event": "query_answered",
        "level": "info",
        "process": "worker",
        "name": "Web.staging.discovery" if tcp else WEB,
        "type": "SRV",
        "rcode": "NOERROR",
        "answers": 3,
        "source": "zone",
        "client": "127.0.0.1",
        "transport": "tcp" if tcp else "udp",
    }


@pytest.mark.parametrize("tcp", [False, True])
def test_each_line_has_its_source(server: ZkdnsServer, *, tcp: bool) -> None:
    own = logged(server, WEB, "A", 3, tcp=tcp)
    assert [line["source"] for line in own] == ["zone", "response_cache", "response_cache"]
    name = f"{'t' if tcp else 'u'}.{WWW}"
    forwarded = logged(server, name, "A", 4, tcp=tcp)
    assert [line["source"] for line in forwarded] == [
        "upstream",
        "forward_cache",
        "forward_cache",
        "response_cache",
    ]
    assert {line["answers"] for line in forwarded} == {1}


@pytest.mark.parametrize(
    ("name", "qtype", "how", "expected"),
    [
        ("none.staging.discovery", "AAAA", {}, ("AAAA", "NXDOMAIN", "zone")),
        (WEB, "TYPE65280", {}, ("TYPE65280", "NOERROR", "zone")),
        (WEB, "A", {"use_edns": 1}, ("A", "BADVERS", "refused")),
        ("version.bind", "TXT", {"rdclass": "CH"}, ("TXT", "REFUSED", "refused")),
        (LONG, "A", {}, ("A", "NXDOMAIN", "zone")),
    ],
    ids=["denied", "rare type", "bad version", "class CH", "longer than a slot"],
)
def test_special_queries_are_logged_too(
    server: ZkdnsServer, name: str, qtype: str, how: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    (line,) = logged(server, name, qtype, **how)
    assert (line["type"], line["rcode"], line["source"]) == expected
    assert line["name"] == name


def test_query_with_a_cookie_is_logged_once(server: ZkdnsServer) -> None:
    cookie = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, bytes(8))
    lines = logged(server, WEB, "A", 2, use_edns=0, options=[cookie])
    assert [line["source"] for line in lines] == ["zone", "response_cache"]


def test_fraction_of_queries_is_logged_and_none_by_default() -> None:
    with ZkdnsServer("--demo", "--log-queries", "0.5") as sampling, ZkdnsServer("--demo") as silent:
        for server in (sampling, silent):
            server.wait_ready()
            for _ in range(200):
                server.query(WEB, "A")
        assert 50 < len(sampling.events("query_answered")) < 150  # fails by chance once in 10^12 runs
        assert silent.events("query_answered") == []
