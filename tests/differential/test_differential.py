"""Compares the answers of zkdns with those of Knot and NSD, which serve the files of `zkdns dump --zone`.

Rcode, flags, question, EDNS and the set of records in each section must be equal, except for the differences
in `ALLOWED`.
"""

from __future__ import annotations

import contextlib
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.name
import msgspec
import pytest
from kazoo.client import KazooClient

from tests.cli import run
from tests.differential import services
from tests.differential.queries import Query, make_queries
from tests.differential.replay import over_tcp, over_udp
from tests.differential.response import Response, Section, decode, differences
from tests.differential.zone_files import ZoneFiles
from tests.support.authorities import Authority, Knot, Nsd
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.processes

COUNT, SEED = 10_000, 7

ZKDNS = "zkdns"
AUTHORITIES = (Knot, Nsd)
APEXES = sorted(map(dns.name.from_text, services.ZONES), key=len, reverse=True)
# Only every 20th member name of the large services is queried; all of them would be most of the queries.
LARGE, LARGE_STEP = (".four-hundred.", ".thousands.", "._four-hundred.", "._thousands."), 20


class Case(msgspec.Struct, frozen=True):
    """A query, and the responses of zkdns and of another server."""

    query: Query
    ours: Response
    theirs: Response
    zones: ZoneFiles

    @property
    def is_truncated(self) -> bool:
        """Whether both responses have TC."""
        return self.ours.is_truncated and self.theirs.is_truncated

    @property
    def all_records(self) -> Section:
        """All records that answer the question."""
        return self.zones.rrset(self.query.name, self.query.qtype)


class Allowed(msgspec.Struct, frozen=True):
    """An allowed difference.

    Attributes:
        servers: the other servers that show it.
        fields: the fields of the response that may differ.
        applies: whether it explains the difference of a case.
        reason: for people.
    """

    servers: tuple[str, ...]
    fields: frozenset[str]
    applies: Callable[[Case], bool]
    reason: str


def _adds_name_servers(case: Case) -> bool:
    apex = next(apex for apex in APEXES if case.query.name.is_subdomain(apex))
    return bool(case.ours.answer) and case.theirs.authority == case.zones.rrset(apex, "NS")


def _is_part(case: Case) -> bool:
    """Whether both are truncated and contain only correct records."""
    answers = case.ours.answer | case.theirs.answer
    return case.is_truncated and bool(case.ours.answer) and case.all_records >= answers


def _omits_additional(case: Case) -> bool:
    """Whether both contain only correct additional records, and zkdns all that fit."""
    additional = case.zones.additional_of(case.ours.answer)
    missing = [len(owner) + 10 + len(data) for owner, _, _, data in additional - case.ours.additional]
    return (
        not case.query.over_tcp
        and case.ours.answer == case.theirs.answer
        and additional >= case.ours.additional | case.theirs.additional
        and (not missing or case.ours.size + max(missing) > case.query.limit)
    )


def _is_any(case: Case) -> bool:
    types = {qtype for _, qtype, _, _ in case.ours.answer}
    if case.query.qtype != "ANY" or len(types) != 1:
        return False
    chosen = case.zones.rrset(case.query.name, *types)
    return (
        chosen >= case.ours.answer
        and case.ours.is_truncated == (chosen > case.ours.answer)
        and (bool(case.theirs.answer) or case.theirs.is_truncated)
        and case.all_records >= case.theirs.answer
        and case.zones.additional_of(case.ours.answer) >= case.ours.additional
        and case.theirs.flags ^ case.ours.flags <= {"TC"}
    )


def _has_ptr_additional(case: Case) -> bool:
    """Whether zkdns adds only correct additional records to PTR, and the other server none."""
    return (
        case.query.qtype == "PTR"
        and case.ours.answer == case.theirs.answer
        and not case.theirs.additional
        and case.zones.additional_of(case.ours.answer) >= case.ours.additional
    )


def _is_limited(case: Case) -> bool:
    """Whether the service has `max_answers`, which limits ANY too."""
    ours = case.ours.answer
    additional = case.zones.additional_of(ours)
    return (
        len(ours) == services.MAX_ANSWERS
        and b"few" in b"".join(case.query.name.labels).lower()
        and case.all_records >= ours | case.theirs.answer
        and (
            case.ours.additional == additional
            or (case.query.qtype == "PTR" and case.ours.additional < additional)
        )
        and case.theirs.flags - case.ours.flags <= {"TC"}
    )


def _is_beyond_64_kib(case: Case) -> bool:
    is_servfail = case.theirs.rcode == "SERVFAIL"
    return case.query.over_tcp and case.ours.is_truncated and is_servfail and _is_full(case)


def _is_full(case: Case) -> bool:
    """Whether the response of zkdns has no room for another record."""
    longest = max(len(data) for *_, data in case.all_records) + 12
    return case.all_records >= case.ours.answer and case.ours.size + longest > case.query.limit


def _is_transfer(case: Case) -> bool:
    return (
        case.query.qtype in ("AXFR", "IXFR")
        and case.ours.rcode == "REFUSED"
        and case.theirs.rcode in ("NOTAUTH", "NOTIMP", "FORMERR")
    )


def _is_unresolved(case: Case) -> bool:
    remark = "is answered with SERVFAIL for A and AAAA"
    return (
        case.query.qtype in ("A", "AAAA")
        and case.ours.rcode == "SERVFAIL"
        and case.zones.has_remark(remark, case.query.name)
    )


def _is_empty(case: Case) -> bool:
    return (case.ours.rcode, case.theirs.rcode) == ("NOERROR", "NXDOMAIN") and case.zones.has_remark(
        "exists without records", case.query.name
    )


def _is_left_out(case: Case) -> bool:
    return case.theirs.rcode == "NXDOMAIN" and case.zones.has_remark("is left out", case.query.name)


_BOTH = (Knot.name, Nsd.name)
_ECHOED = frozenset({"AA", "TC", "RA", "Z", "AD", "CD"})

ALLOWED = (
    Allowed(
        (Nsd.name,),
        frozenset({"authority"}),
        _adds_name_servers,
        "NSD adds the NS records of the zone to positive answers; zkdns omits these optional records",
    ),
    Allowed(
        _BOTH,
        frozenset({"answer"}),
        _is_part,
        "each server chooses the records of a truncated answer: zkdns includes as many as fit, in rotation, "
        "for clients that cannot use TCP; NSD and Knot include other ones or none",
    ),
    Allowed(
        _BOTH,
        frozenset({"additional"}),
        _omits_additional,
        "additional records that do not fit are omitted without TC (RFC 2181 §9); each server chooses which, "
        "and their number depends on name compression",
    ),
    Allowed(
        _BOTH,
        frozenset({"answer", "additional", "flags"}),
        _is_any,
        "zkdns answers ANY with one RRset (RFC 8482 §4.1); a server may choose which",
    ),
    Allowed(
        _BOTH,
        frozenset({"additional"}),
        _has_ptr_additional,
        "zkdns adds SRV, TXT and addresses of the targets to PTR (RFC 6763 §12.1); Knot and NSD add "
        "addresses to SRV only",
    ),
    Allowed(
        _BOTH,
        frozenset({"answer", "additional", "flags"}),
        _is_limited,
        "max_answers limits the answers of zkdns; a zone file has all records",
    ),
    Allowed(
        (Knot.name,),
        frozenset({"rcode", "flags", "answer"}),
        _is_beyond_64_kib,
        "Knot answers SERVFAIL if the records exceed 64 KiB; zkdns and NSD truncate and set TC",
    ),
    Allowed(
        _BOTH,
        frozenset({"rcode"}),
        _is_transfer,
        "zkdns refuses transfers with REFUSED; the others use NOTAUTH for unknown clients and names that are "
        "no apex, and NOTIMP for AXFR over UDP",
    ),
    Allowed(
        _BOTH,
        frozenset({"rcode", "flags", "authority"}),
        _is_unresolved,
        "zkdns answers SERVFAIL for member hosts that are not resolved yet; a zone file cannot express that",
    ),
    Allowed(
        _BOTH,
        frozenset({"rcode"}),
        _is_empty,
        "a service without members is NODATA; a zone file cannot contain a name without records",
    ),
    Allowed(
        _BOTH,
        frozenset({"rcode", "answer", "authority", "additional"}),
        _is_left_out,
        "an asterisk is an ordinary label in zkdns, and a wildcard in a zone file (RFC 4592 §2.1)",
    ),
    Allowed(
        (Knot.name,),
        frozenset({"rcode", "flags", "authority"}),
        lambda case: case.query.qtype == "TYPE0" and case.theirs.rcode == "NOTIMP",
        "type 0 is reserved (RFC 6895 §3.1): Knot answers NOTIMP; zkdns and NSD answer NODATA",
    ),
    Allowed(
        (Nsd.name,),
        frozenset({"question"}),
        lambda case: case.query.qclass != "IN" and case.theirs.rcode == "REFUSED",
        "NSD refuses other classes without the question section; zkdns includes it (RFC 1035 §4.1.1)",
    ),
    Allowed(
        (Nsd.name,),
        frozenset({"edns", "flags"}),
        lambda case: (
            case.theirs.rcode == "BADVERS"
            and case.theirs.edns == (0, False)
            and case.theirs.flags - case.ours.flags <= _ECHOED
            and case.ours.flags <= case.theirs.flags
        ),
        "NSD returns all flags of the query with BADVERS, and clears DO; zkdns copies only RD and DO "
        "(RFC 1035 §4.1.1, RFC 6891 §6.1.4)",
    ),
)
"""All allowed differences; any other difference fails the test."""


class Replayed(msgspec.Struct, frozen=True):
    """All queries, and the responses by server and query id."""

    queries: list[Query]
    responses: dict[str, dict[int, Response]]
    zones: ZoneFiles
    logs: dict[str, str]


@contextlib.contextmanager
def tree(zookeeper: ZooKeeperServer) -> Iterator[str]:
    """Create the services in ZooKeeper; yield the connect string with their path."""
    client = KazooClient(zookeeper.address)
    client.start()
    root = f"/differential-{uuid.uuid4().hex[:12]}"
    try:
        znodes = list(services.znodes())
        for path, data in znodes:
            if not data:
                client.ensure_path(root + path)
        for result in [client.create_async(root + path, data) for path, data in znodes if data]:
            result.get(30)
        yield zookeeper.address + root
    finally:
        client.delete(root, recursive=True)
        client.stop()
        client.close()


@contextlib.contextmanager
def serving(connect: str, directory: Path) -> Iterator[ZkdnsServer]:
    """Run zkdns with all services loaded."""
    static, config = directory / "services.toml", directory / "zkdns.toml"
    static.write_text(services.STATIC, encoding="utf-8")
    config.write_text(services.CONFIGURATION.format(zookeeper=connect, static=static), encoding="utf-8")
    with ZkdnsServer("--config", str(config)) as server:
        server.wait_ready()
        eventually(
            lambda: server.rcode("s7.fixed.special.discovery") == "NOERROR"
        )  # its host has been resolved
        yield server


def dumped(server: ZkdnsServer, directory: Path) -> dict[str, Path]:
    """Write the zone files with `zkdns dump --zone`; return them by zone."""
    files = {}
    for zone in services.ZONES:
        ended = run("dump", "--zone", zone, "--server", server.api)
        assert (ended.status, ended.errors) == (0, "")
        files[zone] = directory / f"{zone}.zone"
        files[zone].write_text(ended.output, encoding="ascii")
    return files


def replay(port: int, queries: list[Query]) -> dict[int, Response]:
    """Send all queries to a server; return its responses by query id."""
    responses = over_udp(port, {query.message.id: query.wire for query in queries if not query.over_tcp})
    responses |= over_tcp(port, {query.message.id: query.wire for query in queries if query.over_tcp})
    return {ident: decode(response) for ident, response in responses.items()}


@pytest.fixture(scope="module")
def replayed(zookeeper: ZooKeeperServer, tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    for authority in AUTHORITIES:
        if authority.is_missing():
            pytest.skip(f"needs {authority.program} (Debian and Ubuntu: apt install {authority.package})")
    directory = tmp_path_factory.mktemp("differential")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(stack.enter_context(tree(zookeeper)), directory))
        files = dumped(server, directory)
        zones = ZoneFiles(file.read_text(encoding="ascii") for file in files.values())
        queries = make_queries(COUNT, SEED, _names_to_query(zones.names), APEXES)
        others: list[Authority] = [
            stack.enter_context(authority(files, directory)) for authority in AUTHORITIES
        ]
        responses = {ZKDNS: replay(server.port, queries)}
        responses |= {other.name: replay(other.port, queries) for other in others}
        return Replayed(queries, responses, zones, {other.name: other.log for other in others})


def _names_to_query(names: list[dns.name.Name]) -> list[dns.name.Name]:
    """The names in sorted order, with only some members of the large services."""
    ordered = sorted(names)
    large = [name for name in ordered if any(part in name.to_text() for part in LARGE)]
    return sorted({*ordered} - {*large} | {*large[::LARGE_STEP]})


def allowed_for(server: str, fields: list[str], case: Case) -> list[Allowed]:
    """The entries that explain the differences of a case; empty if they do not explain all fields."""
    rows = [
        row
        for row in ALLOWED
        if server in row.servers and row.fields.intersection(fields) and row.applies(case)
    ]
    explained = frozenset().union(*(row.fields for row in rows))
    return rows if explained.issuperset(fields) else []


def test_zkdns_differs_from_knot_and_nsd_only_as_allowed(replayed: Replayed) -> None:
    differing: list[str] = []
    used: Counter[str] = Counter()
    for query in replayed.queries:
        ours = replayed.responses[ZKDNS][query.message.id]
        for authority in AUTHORITIES:
            theirs = replayed.responses[authority.name][query.message.id]
            fields = differences(ours, theirs)
            rows = allowed_for(authority.name, fields, Case(query, ours, theirs, replayed.zones))
            used.update(row.reason for row in rows)
            if fields and not rows:
                differing.append(f"{query}: {authority.name} differs in {', '.join(fields)}: {ours} {theirs}")
    assert not differing, f"{len(differing)} differences; the first ones:\n" + "\n".join(differing[:5])
    assert [row.reason for row in ALLOWED if row.reason not in used] == [], "unused entries of ALLOWED"


def _size(replayed: Replayed, query: Query) -> int:
    """Size of the response of zkdns."""
    return replayed.responses[ZKDNS][query.message.id].size


def test_the_queries_cover_all_kinds_of_responses_and_all_are_answered(replayed: Replayed) -> None:
    for responses in replayed.responses.values():
        assert len(responses) == COUNT
    ours = replayed.responses[ZKDNS].values()
    assert [str(query) for query in replayed.queries if _size(replayed, query) > query.limit] == []
    assert {response.rcode for response in ours} == {"NOERROR", "NXDOMAIN", "REFUSED", "SERVFAIL", "BADVERS"}
    assert sum(response.is_truncated for response in ours) > 50
    assert sum(bool(response.answer) for response in ours) > COUNT / 4
    assert sum(response.rcode == "NXDOMAIN" for response in ours) > COUNT / 20
    assert sum(any(qtype == "PTR" for _, qtype, *_ in response.answer) for response in ours) > COUNT / 200


def test_knot_and_nsd_load_the_zone_files_without_warnings(replayed: Replayed) -> None:
    lines = [line for log in replayed.logs.values() for line in log.splitlines()]
    assert [line for line in lines if "notice: nsd start" not in line] == []
