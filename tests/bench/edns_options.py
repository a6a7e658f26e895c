"""Benchmark of cached queries with EDNS options, each compared with the same query without options."""

import random
from collections.abc import Iterator

import dns.edns
import dns.message
import dns.query

from tests.bench.load import LoadResult
from tests.bench.measurement import Bench, measure, report_samples, same_queries
from tests.bench.peers import Peer, Zkdns
from tests.bench.queries import QueryFile, Question, encode, service_questions, write_messages
from tests.bench.udp_answers import MEMBERS, SERVICES, ZKDNS, running_peers
from tests.bench.zone import make_services
from zkdns.dns.edns import CLIENT_COOKIE_SIZE, OptionCode, pack_option

LIMIT = 2.0
"""Maximum cost, compared with queries without options."""
COUNT = 100_000
"""Queries with options that are all different."""
PLAIN = "without options"
_PADDED_SIZE = 128
"""The block size of a padded query (RFC 8467 §4.1)."""
_CLIENT_SUBNET, _PADDING = 8, 12
_SUBNET = bytes((0, 1, 24, 0, 192, 0, 2))  # IPv4, 24 bits


def run_edns_options(bench: Bench) -> None:
    """Measure cookies as dig and BIND send them, client subnets, and padding."""
    title = "edns-options"
    services = make_services(SERVICES, MEMBERS)
    questions = service_questions(services)
    with running_peers(bench, title, (Zkdns,), services) as peers:
        cookie = _server_cookie(peers[0].port, questions[0])
        rng = random.Random(1)

        def different(size: int) -> Iterator[bytes]:
            return (rng.randbytes(size) for _ in range(COUNT))

        first = cookie[:CLIENT_COOKIE_SIZE]
        options: dict[str, Iterator[bytes] | None] = {
            PLAIN: None,
            "one client cookie": iter([pack_option(OptionCode.COOKIE, first)]),
            "client and server cookie": iter([pack_option(OptionCode.COOKIE, cookie)]),
            "a new client cookie each": (
                pack_option(OptionCode.COOKIE, one) for one in different(CLIENT_COOKIE_SIZE)
            ),
            "one client subnet": iter([pack_option(_CLIENT_SUBNET, _SUBNET)]),
            "a new client subnet each": (
                pack_option(_CLIENT_SUBNET, _SUBNET[:4] + one) for one in different(3)
            ),
            "padding": iter([b""]),
        }
        kinds = [
            same_queries(name, write_messages(bench.directory / title / name.replace(" ", "-"), made))
            for name, made in ((name, _messages(questions, name, given)) for name, given in options.items())
        ]

        def run_load(peer: Peer, queries: QueryFile, seconds: float) -> LoadResult:
            return bench.load.flood(peer.port, queries, seconds=seconds)  # dnsperf has no options

        samples = measure(bench, title, peers, kinds, run_load)
    report_samples(bench.report, samples)
    yardstick = f"without options {samples.cpu(ZKDNS, PLAIN):.2f} µs/answer"
    for name in options:
        if name != PLAIN:
            ratio = samples.cpu_ratio((ZKDNS, name), (ZKDNS, PLAIN))
            bench.report.add(
                f"CPU cost of zkdns, {name} / without options", ratio, "x", limit=LIMIT, yardstick=yardstick
            )


def _messages(questions: list[Question], name: str, options: Iterator[bytes] | None) -> Iterator[bytes]:
    """All questions with each of the options in turn; with padding, each query has the size of a block."""
    if options is None:
        yield from (encode(question, edns=True) for question in questions)
        return
    made = list(options)
    for number in range(max(len(made), len(questions))):
        question, given = questions[number % len(questions)], made[number % len(made)]
        if name == "padding":
            missing = _PADDED_SIZE - len(encode(question, edns=True)) - len(pack_option(_PADDING, b""))
            given = pack_option(_PADDING, bytes(missing))
        yield encode(question, edns=True, options=given)


def _server_cookie(port: int, question: Question) -> bytes:
    """A client cookie, with the server cookie that the server sends for it."""
    query = dns.message.make_query(*question, options=[dns.edns.CookieOption(b"zkdnsone", b"")])
    response = dns.query.udp(query, "127.0.0.1", port=port, timeout=5.0)
    (found,) = (option for option in response.options if isinstance(option, dns.edns.CookieOption))
    return bytes(found.client + found.server)
