"""The kinds of abuse: for each, the start of the server and the hostile client."""

import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from kazoo.client import KazooClient

from tests.bench.abuse_servers import (
    DEAD_DOMAIN,
    AbusedKnot,
    AbusedUnbound,
    endpoints_in_static_file,
    endpoints_in_zone_file,
    forwarding_zkdns,
    serving_zkdns,
)
from tests.bench.answer_checks import check_answers, send_query
from tests.bench.exchanged_members import Exchanger, UpdateExchanger, ZooKeeperExchanger, exchanging
from tests.bench.forwarders import Upstream
from tests.bench.forwarding import check_forwarded
from tests.bench.hostile_queries import (
    absent_endpoints,
    absent_labels,
    alternate,
    polite_questions,
    with_options,
)
from tests.bench.measurement import Bench
from tests.bench.peers import Knot, Peer, Unbound, Zkdns
from tests.bench.queries import (
    Question,
    encode,
    nonexistent_names,
    service_questions,
    write_messages,
)
from tests.bench.unread_responses import unread_responses
from tests.bench.zone import Service, make_services
from tests.support.zookeeper import ZooKeeperServer

POLITE_RATE = 500
"""Queries per second of the polite client."""
SERVICES = make_services(1000, 5)
"""The services that the polite client queries."""
_LARGE = make_services(1, 5000, name="large", first=1)[0]
_HUGE_ANSWER = make_services(1, 3560, name="answer", first=2)[0]
"""An A response for this service over TCP has 57 KB."""
_TARGETS = make_services(100, 5, name="target", first=2000)
_ENDPOINTS, _ENDPOINT_SERVICE = 4000, "endpoints"
_CONNECTIONS, _PIPELINED = 10, 3900
_EXCHANGE_SECONDS, _EXCHANGE_RATE = 0.5, 300
_DEAD_RATE = 1500

# The address of all other names below the environment.
_WILDCARD = Service("*", (("10.255.255.1", 1),))

MARGIN = 1.0
"""Seconds by which the loads could run longer than they are needed."""
MAX_LEAD = 3.0
"""Maximum seconds of abuse before the measurement."""
_MIN_SENT_SHARE = 0.9


# -- polite clients ----------------------------------------------------------------------------------------


def _polite_serving() -> Iterator[Question]:
    return polite_questions(SERVICES)


def _polite_forwarding() -> Iterator[Question]:
    new = nonexistent_names(POLITE_RATE * 20, seed=6, types=("A",))
    return alternate(service_questions(SERVICES[:100], ("A",)), new)


# -- types -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Traffic:
    """The traffic of a hostile client."""

    sent: int
    answered: int
    note: str = ""


@dataclass(frozen=True)
class Running:
    """A running server."""

    peer: Peer
    exchanger: Exchanger | None = None
    """Changes the large service of the server. None: this kind of abuse does not change it."""


Hostile = Callable[[Bench, Path, Running], AbstractContextManager[list[Traffic]]]
"""Runs a hostile client during a `with` block: (environment, directory, server). After the block, the list
has its traffic."""
Start = Callable[[Bench, Path, type[Peer]], AbstractContextManager[Running]]
"""Starts a server: (environment, directory, Zkdns or the compared class)."""


@dataclass(frozen=True)
class Kind:
    """A kind of abuse."""

    summary: str
    start: Start
    hostile: Hostile
    rival: type[Peer] = Knot
    """The compared server."""
    lead: float = 0.5
    """Seconds of abuse before the measurement, so that its effects are complete."""
    polite: Callable[[], Iterator[Question]] = _polite_serving
    """Returns the questions of the polite client."""
    needs: tuple[str, ...] = ()
    """Programs that this kind needs for all servers."""


# -- servers -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Serving:
    """Starts an authoritative server with the services of the polite client and further ones."""

    services: Sequence[Service] = ()
    static: str = ""
    """Further lines of zkdns' static file."""
    records: str = ""
    """Further lines of Knot's zone file, with the same meaning."""

    @contextlib.contextmanager
    def __call__(self, bench: Bench, directory: Path, server: type[Peer]) -> Iterator[Running]:
        services, core = [*self.services, *SERVICES], bench.cores.server
        peer: Peer = (
            serving_zkdns(services, directory, core, static=self.static)
            if server is Zkdns
            else AbusedKnot(services, directory, core, records=self.records)
        )
        with peer:
            check_answers(peer.name, peer.port, SERVICES)
            yield Running(peer)


@contextlib.contextmanager
def _start_changing(bench: Bench, directory: Path, server: type[Peer]) -> Iterator[Running]:
    """Start a server with a large service that changes, in ZooKeeper or by updates of Knot."""
    if server is not Zkdns:
        with Serving([_LARGE])(bench, directory, server) as running:
            yield Running(running.peer, UpdateExchanger(running.peer.port, _LARGE))
        return
    with contextlib.ExitStack() as stack:
        zookeeper = stack.enter_context(ZooKeeperServer())
        client = KazooClient(zookeeper.address)
        stack.callback(client.close)
        client.start()
        stack.callback(client.stop)
        exchanger = ZooKeeperExchanger(client, _LARGE)
        arguments = ("--zookeeper", zookeeper.address)
        peer = serving_zkdns(SERVICES, directory, bench.cores.server, arguments=arguments)
        stack.enter_context(peer)
        check_answers(peer.name, peer.port, SERVICES)
        yield Running(peer, exchanger)


@contextlib.contextmanager
def _start_forwarding(bench: Bench, directory: Path, server: type[Peer]) -> Iterator[Running]:
    """Start a forwarder with a live upstream, and with a domain with an upstream that never answers."""
    served, cores = [_WILDCARD, *SERVICES], bench.cores
    with socket.socket(type=socket.SOCK_DGRAM) as silent, Upstream(served, directory, cores.load) as upstream:
        silent.bind(("127.0.0.1", 0))
        make = forwarding_zkdns if server is Zkdns else AbusedUnbound
        with make(served, directory, cores.server, upstream.port, silent.getsockname()[1]) as peer:
            check_forwarded(peer, SERVICES)
            yield Running(peer)


# -- hostile clients ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Queries:
    """Sends queries over UDP at a fixed rate, independently of the responses."""

    messages: Callable[[int], Sequence[bytes]]
    """Returns that number of queries."""
    rate: int
    """Queries per second, times the duration at most 60,000: all may be in flight."""

    @contextlib.contextmanager
    def __call__(self, bench: Bench, directory: Path, running: Running) -> Iterator[list[Traffic]]:
        seconds = MAX_LEAD + bench.seconds + MARGIN  # then the load ends by itself
        queries = write_messages(directory / "hostile", self.messages(int(self.rate * seconds)))
        started_at, made = time.monotonic(), list[Traffic]()
        with bench.load.in_background(
            running.peer.port,
            queries,
            rate=self.rate,
            core=bench.cores.load,
            seconds=seconds,
            is_real_time=False,
        ) as results:
            yield made
            lasted = time.monotonic() - started_at
        result = results[0]
        sent = result.answered + result.lost
        if sent < _MIN_SENT_SHARE * self.rate * (lasted - 0.5):
            raise RuntimeError(f"the hostile client sent {sent} queries in {lasted:.1f} s, not {self.rate}/s")
        rcodes = ", ".join(f"rcode {rcode}: {count}" for rcode, count in result.rcodes.items())
        made.append(Traffic(sent, result.answered, rcodes))


def _questions(questions: Callable[[int], Sequence[Question]]) -> Callable[[int], list[bytes]]:
    return lambda count: [encode(question, edns=True) for question in questions(count)]


@contextlib.contextmanager
def _unread(_bench: Bench, _directory: Path, running: Running) -> Iterator[list[Traffic]]:
    """Pipeline queries for a large response over TCP, without reading the responses."""
    port, made = running.peer.port, list[Traffic]()
    size = len(send_query(port, _HUGE_ANSWER.owner, "A", tcp=True).to_wire(max_size=65535))
    query = encode((_HUGE_ANSWER.owner, "A"), edns=True)
    with unread_responses(port, query, connections=_CONNECTIONS, each=_PIPELINED) as unread:
        yield made
    note = f"responses of {size:,} bytes; {unread.closed} of {unread.opened} connections closed by the server"
    made.append(Traffic(unread.sent, 0, note))


@contextlib.contextmanager
def _exchange(bench: Bench, directory: Path, running: Running) -> Iterator[list[Traffic]]:
    """Exchange a member of the large service now and then while its records are queried."""
    assert running.exchanger is not None
    peer, made = running.peer, list[Traffic]()
    types = itertools.cycle([(_LARGE.owner, qtype) for qtype in ("SRV", "A", "TXT")])
    queries = Queries(_questions(lambda count: list(itertools.islice(types, count))), _EXCHANGE_RATE)
    with queries(bench, directory, running) as sent, exchanging(running.exchanger, _EXCHANGE_SECONDS) as done:
        yield made
    done.check_answered(peer.name, peer.port, _LARGE)
    made.append(replace(sent[0], note=f"{done.count} exchanges; {sent[0].note}"))


def _random_names(count: int) -> list[Question]:
    return nonexistent_names(count, seed=7)


def _dead_names(count: int) -> list[Question]:
    return [(f"x{number}.{DEAD_DOMAIN}", "A") for number in range(count)]


_MANY_ENDPOINTS = Serving(
    static=endpoints_in_static_file(_ENDPOINT_SERVICE, _ENDPOINTS),
    records=endpoints_in_zone_file(_ENDPOINT_SERVICE, _ENDPOINTS),
)
KINDS = {
    "absent-endpoints": Kind(
        "150/s absent endpoint names below a service of 5,000 members",
        Serving([_LARGE]),
        Queries(_questions(partial(absent_endpoints, _LARGE.owner)), 150),
    ),
    "absent-endpoints-fast": Kind(
        "1,000/s absent endpoint names below a service of 5,000 members",
        Serving([_LARGE]),
        Queries(_questions(partial(absent_endpoints, _LARGE.owner)), 1000),
    ),
    "many-endpoints": Kind(
        "150/s absent names below a service whose member has 4,000 additional endpoints on different hosts",
        _MANY_ENDPOINTS,
        Queries(_questions(partial(absent_labels, Service(_ENDPOINT_SERVICE, ()).owner)), 150),
    ),
    "many-endpoints-fast": Kind(
        "1,000/s absent names below that service",
        _MANY_ENDPOINTS,
        Queries(_questions(partial(absent_labels, Service(_ENDPOINT_SERVICE, ()).owner)), 1000),
    ),
    "unread-tcp": Kind(
        f"{_CONNECTIONS} TCP connections with {_PIPELINED:,} queries each that read no response",
        Serving([_HUGE_ANSWER]),
        _unread,
    ),
    "exchanges": Kind(
        "one of 5,000 members is exchanged every 0.5 s; SRV, A and TXT are queried, 300/s",
        _start_changing,
        _exchange,
    ),
    "edns-options": Kind(
        "2,000/s with new cookies, client subnets and padding",
        Serving(_TARGETS),
        Queries(partial(with_options, service_questions(_TARGETS)), 2000),
    ),
    "random-names": Kind("5,000/s nonexistent names", Serving(), Queries(_questions(_random_names), 5000)),
    "dead-upstream": Kind(
        "1,500/s new names of a dead upstream",
        _start_forwarding,
        Queries(_questions(_dead_names), _DEAD_RATE),
        rival=Unbound,
        lead=MAX_LEAD,  # from then on, the maximum number of queries waits
        polite=_polite_forwarding,
        needs=(Upstream.program,),
    ),
}
