"""Responses by service: every response for a service's names counts once, from the cache or not."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable

import dns.edns
import pytest

from tests.dns.helpers import Server, ask, member, put, random_case
from zkdns.dns.service_counts import ServiceCounts
from zkdns.table import Table

WEB, OTHER = "web.staging.discovery", "api.staging.discovery"


def server() -> Server:
    return Server(
        {
            "web.staging": [member(number, f"10.0.0.{number}:80", shard=number) for number in (1, 2, 3)],
            "api.staging": [member(1, "10.1.0.1:80")],
        }
    )


def taken(of: Server) -> dict[str, int]:
    """The responses by service since the last call."""
    counts: Counter[str] = Counter()
    for part in of.authority.service_counts.take():
        counts.update(part)
    return dict(counts)


def in_random_case(name: str) -> Callable[[Server, int], object]:
    return lambda of, number: ask(of, random_case(name, random.Random(number)), stream=bool(number % 2))


def with_cookie(of: Server, number: int) -> object:
    cookie = dns.edns.CookieOption(number.to_bytes(8), b"")
    return ask(of, WEB, edns=0, options=[cookie])


@pytest.mark.parametrize(
    "send",
    [
        lambda of, _: ask(of, WEB),
        lambda of, _: ask(of, WEB, "SRV", stream=True),
        lambda of, number: ask(of, WEB, edns=0 if number % 2 else None),
        in_random_case(WEB),
        with_cookie,
        lambda of, number: ask(of, f"m{number % 3 + 1}.{WEB}"),
        lambda of, _: ask(of, "_web._tcp.staging.discovery", "SRV"),
        lambda of, _: ask(of, WEB, "AAAA"),
        lambda of, number: ask(of, f"x{number}.{WEB}"),
    ],
    ids=["UDP", "TCP", "EDNS", "case", "cookies", "members", "RFC 2782", "NODATA", "NXDOMAIN"],
)
def test_each_response_counts_once(send: Callable[[Server, int], object]) -> None:
    of = server()
    for number in range(12):
        send(of, number)
    assert taken(of) == {"web.staging": 12}
    send(of, 1)
    assert taken(of) == {"web.staging": 1}
    assert taken(of) == {}


def test_names_of_no_service_are_not_counted() -> None:
    of = server()
    for name in ("none.staging.discovery", "staging.discovery", "discovery", "example.com"):
        for _ in range(3):
            ask(of, name)
    assert taken(of) == {}


def test_counting_goes_on_after_changes() -> None:
    of = server()
    for number in range(10):
        ask(of, WEB)
        ask(of, OTHER)
        of.change("web.staging", [member(9, f"10.0.1.{number}:80")])
    assert taken(of) == {"web.staging": 10, "api.staging": 10}
    ask(of, WEB)
    of.drop("web.staging")
    ask(of, WEB)
    assert taken(of) == {}
    of.apply(put("Web.staging", [member(1, "10.0.0.1:80")]))
    ask(of, WEB)
    assert taken(of) == {"Web.staging": 1}


def test_thousands_of_services_are_taken_in_parts() -> None:
    table = Table()
    for number in range(1500):
        table.apply(put(f"s{number}.staging", []))
    counts = ServiceCounts(table.services)
    for key in table.services:
        next(counts.counted(key, itertools.repeat(b"")))
    assert list(map(len, counts.take())) == [250] * 6


def test_a_service_that_does_not_exist_costs_nothing() -> None:
    responses = iter([b""])
    assert ServiceCounts({}).counted((b"web",), responses) is responses
