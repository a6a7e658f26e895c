"""What is answered here, beside what Knot and NSD answer from the zone files of `zkdns dump --zone`.

Rcode, flags, question, EDNS and the sets of records of each section must be the same, but for what `ALLOWED`
lists.
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
from tests.differential import scene
from tests.differential.authorities import Authority, Knot, Nsd
from tests.differential.comparing import Said, differences, read
from tests.differential.questions import Asked, make_questions
from tests.differential.reference import Reference
from tests.differential.replaying import over_tcp, over_udp
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.processes

COUNT, SEED = 10_000, 7

OURS = "zkdns"
AUTHORITIES = (Knot, Nsd)
APEXES = sorted(map(dns.name.from_text, scene.ZONES), key=len, reverse=True)
# Of the members of so large sets one in so many is asked for, lest they are nearly all that is asked for.
LARGE, SPARED = (".four-hundred.", ".thousands.", "._four-hundred.", "._thousands."), 20


class Case(msgspec.Struct, frozen=True):
    """One query, and what two servers said."""

    asked: Asked
    ours: Said
    theirs: Said
    zones: Reference

    @property
    def is_cut(self) -> bool:
        """Whether both tell that there is more."""
        return self.ours.is_cut and self.theirs.is_cut

    @property
    def whole(self) -> frozenset[tuple[bytes, str, int, bytes]]:
        """The records that answer the question."""
        return self.zones.rrset(self.asked.name, self.asked.qtype)


class Allowed(msgspec.Struct, frozen=True):
    """A difference that may be, whose it is, and in which fields it shows."""

    whose: tuple[str, ...]
    fields: frozenset[str]
    holds: Callable[[Case], bool]
    reason: str


def _tells_name_servers(case: Case) -> bool:
    apex = next(apex for apex in APEXES if case.asked.name.is_subdomain(apex))
    return bool(case.ours.answer) and case.theirs.authority == case.zones.rrset(apex, "NS")


def _is_part(case: Case) -> bool:
    """Whether both hold what there is, as much as goes."""
    return case.is_cut and bool(case.ours.answer) and case.whole >= case.ours.answer | case.theirs.answer


def _lacks_glue(case: Case) -> bool:
    """Whether both hold right glue alone, and we all for which there was room."""
    glue = case.zones.glue_of(case.ours.answer)
    missing = [len(owner) + 10 + len(data) for owner, _, _, data in glue - case.ours.additional]
    return (
        not case.asked.over_tcp
        and case.ours.answer == case.theirs.answer
        and glue >= case.ours.additional | case.theirs.additional
        and (not missing or case.ours.size + max(missing) > case.asked.limit)
    )


def _is_any(case: Case) -> bool:
    types = {qtype for _, qtype, _, _ in case.ours.answer}
    if case.asked.qtype != "ANY" or len(types) != 1:
        return False
    chosen = case.zones.rrset(case.asked.name, *types)
    return (
        chosen >= case.ours.answer
        and case.ours.is_cut == (chosen > case.ours.answer)
        and (bool(case.theirs.answer) or case.theirs.is_cut)
        and case.whole >= case.theirs.answer
        and case.zones.glue_of(case.ours.answer) >= case.ours.additional
        and case.theirs.flags ^ case.ours.flags <= {"TC"}
    )


def _rides_along(case: Case) -> bool:
    """Whether more is told of whom PTR leads to, and nothing that is not so."""
    return (
        case.asked.qtype == "PTR"
        and case.ours.answer == case.theirs.answer
        and not case.theirs.additional
        and case.zones.glue_of(case.ours.answer) >= case.ours.additional
    )


def _is_limited(case: Case) -> bool:
    """Whether it is the service that `max_answers` is set for; of ANY too."""
    ours = case.ours.answer
    glue = case.zones.glue_of(ours)
    return (
        len(ours) == scene.MOST_ANSWERS
        and b"few" in b"".join(case.asked.name.labels).lower()
        and case.whole >= ours | case.theirs.answer
        and (case.ours.additional == glue or (case.asked.qtype == "PTR" and case.ours.additional < glue))
        and case.theirs.flags - case.ours.flags <= {"TC"}
    )


def _is_beyond_64_kib(case: Case) -> bool:
    return case.asked.over_tcp and case.ours.is_cut and case.theirs.rcode == "SERVFAIL" and _fills(case)


def _fills(case: Case) -> bool:
    """Whether we have used all of the room that there is over TCP."""
    longest = max(len(data) for *_, data in case.whole) + 12
    return case.whole >= case.ours.answer and case.ours.size + longest > case.asked.limit


def _is_transfer(case: Case) -> bool:
    return (
        case.asked.qtype in ("AXFR", "IXFR")
        and case.ours.rcode == "REFUSED"
        and case.theirs.rcode in ("NOTAUTH", "NOTIMP", "FORMERR")
    )


def _is_unresolved(case: Case) -> bool:
    said = "is answered with SERVFAIL for A and AAAA"
    return (
        case.asked.qtype in ("A", "AAAA")
        and case.ours.rcode == "SERVFAIL"
        and case.zones.is_said(said, case.asked.name)
    )


def _is_empty(case: Case) -> bool:
    return (case.ours.rcode, case.theirs.rcode) == ("NOERROR", "NXDOMAIN") and case.zones.is_said(
        "exists without records", case.asked.name
    )


def _is_left_out(case: Case) -> bool:
    return case.theirs.rcode == "NXDOMAIN" and case.zones.is_said("is left out", case.asked.name)


_BOTH = (Knot.name, Nsd.name)
_ECHOED = frozenset({"AA", "TC", "RA", "Z", "AD", "CD"})

ALLOWED = (
    Allowed(
        (Nsd.name,),
        frozenset({"authority"}),
        _tells_name_servers,
        "NSD names its zone's servers with every positive answer, which nobody who has just found one needs",
    ),
    Allowed(
        _BOTH,
        frozenset({"answer"}),
        _is_part,
        "where TC is set, an answer holds what fits: here rotated records for those who cannot ask over TCP, "
        "with NSD and Knot others or none",
    ),
    Allowed(
        _BOTH,
        frozenset({"additional"}),
        _lacks_glue,
        "glue that does not fit is left out without TC (RFC 2181 §9), each server choosing which, and how "
        "much fits depends on how names are compressed",
    ),
    Allowed(
        _BOTH,
        frozenset({"answer", "additional", "flags"}),
        _is_any,
        "ANY is answered with one RRset (RFC 8482 §4.1), and every server may choose which",
    ),
    Allowed(
        _BOTH,
        frozenset({"additional"}),
        _rides_along,
        "SRV, TXT and addresses of whom PTR leads to ride along (RFC 6763 §12.1); elsewhere with SRV alone",
    ),
    Allowed(
        _BOTH,
        frozenset({"answer", "additional", "flags"}),
        _is_limited,
        "a zone file holds all records, and no limit for how many of them an answer has (max_answers)",
    ),
    Allowed(
        (Knot.name,),
        frozenset({"rcode", "flags", "answer"}),
        _is_beyond_64_kib,
        "what no message has room for is SERVFAIL with Knot; here it is cut with TC, as with NSD",
    ),
    Allowed(
        _BOTH,
        frozenset({"rcode"}),
        _is_transfer,
        "transfers are refused; the others call that NOTAUTH where the asker is not known or the name no "
        "zone's, and NOTIMP for AXFR over UDP",
    ),
    Allowed(
        _BOTH,
        frozenset({"rcode", "flags", "authority"}),
        _is_unresolved,
        "addresses that are not known yet are not denied; a zone file knows no SERVFAIL",
    ),
    Allowed(
        _BOTH,
        frozenset({"rcode"}),
        _is_empty,
        "a service without members is a name without records (NODATA), which a zone file cannot hold",
    ),
    Allowed(
        _BOTH,
        frozenset({"rcode", "answer", "authority", "additional"}),
        _is_left_out,
        "an asterisk is a label as any other here, and in a zone file stands for all others (RFC 4592 §2.1)",
    ),
    Allowed(
        (Knot.name,),
        frozenset({"rcode", "flags", "authority"}),
        lambda case: case.asked.qtype == "TYPE0" and case.theirs.rcode == "NOTIMP",
        "the type 0 is reserved (RFC 6895 §3.1): NOTIMP with Knot, and without records with us as with NSD",
    ),
    Allowed(
        (Nsd.name,),
        frozenset({"question"}),
        lambda case: case.asked.qclass != "IN" and case.theirs.rcode == "REFUSED",
        "NSD refuses other classes with a header alone; RFC 1035 §4.1.1 lets the question be there",
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
        "NSD sends all flags of a query back with BADVERS, and DO clear; RD and DO are copied, and no others "
        "(RFC 1035 §4.1.1, RFC 6891 §6.1.4)",
    ),
)
"""All differences that are allowed; whatever else differs is a fault of somebody's."""


class Replayed(msgspec.Struct, frozen=True):
    """What was asked, and what all servers said, by the queries' ids."""

    asked: list[Asked]
    said: dict[str, dict[int, Said]]
    zones: Reference
    logs: dict[str, str]


@contextlib.contextmanager
def tree(zookeeper: ZooKeeperServer) -> Iterator[str]:
    """The scene in ZooKeeper, and where."""
    client = KazooClient(zookeeper.address)
    client.start()
    root = f"/differential-{uuid.uuid4().hex[:12]}"
    try:
        znodes = list(scene.znodes())
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
    """Our server, with all of the scene read."""
    fixed, config = directory / "fixed.toml", directory / "zkdns.toml"
    fixed.write_text(scene.FIXED, encoding="utf-8")
    config.write_text(scene.CONFIGURATION.format(zookeeper=connect, fixed=fixed), encoding="utf-8")
    with ZkdnsServer("--config", str(config)) as server:
        server.wait_ready()
        eventually(lambda: server.rcode("s7.fixed.special.discovery") == "NOERROR")  # its host is resolved
        yield server


def dumped(server: ZkdnsServer, directory: Path) -> dict[str, Path]:
    """The zone files, by the zones' names."""
    files = {}
    for zone in scene.ZONES:
        ended = run("dump", "--zone", zone, "--control", server.control)
        assert (ended.status, ended.errors) == (0, "")
        files[zone] = directory / f"{zone}.zone"
        files[zone].write_text(ended.output, encoding="ascii")
    return files


def replay(port: int, asked: list[Asked]) -> dict[int, Said]:
    """What the server at a port says to all of it."""
    responses = over_udp(port, {each.message.id: each.wire for each in asked if not each.over_tcp})
    responses |= over_tcp(port, {each.message.id: each.wire for each in asked if each.over_tcp})
    return {ident: read(response) for ident, response in responses.items()}


@pytest.fixture(scope="module")
def replayed(zookeeper: ZooKeeperServer, tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    for authority in AUTHORITIES:
        if authority.is_missing():
            pytest.skip(f"needs {authority.program} (Debian and Ubuntu: apt install {authority.name})")
    directory = tmp_path_factory.mktemp("differential")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(stack.enter_context(tree(zookeeper)), directory))
        files = dumped(server, directory)
        zones = Reference(file.read_text(encoding="ascii") for file in files.values())
        asked = make_questions(COUNT, SEED, _worth_asking(zones.names), APEXES)
        others: list[Authority] = [
            stack.enter_context(authority(files, directory)) for authority in AUTHORITIES
        ]
        said = {OURS: replay(server.port, asked)}
        said |= {other.name: replay(other.port, asked) for other in others}
        return Replayed(asked, said, zones, {other.name: other.log for other in others})


def _worth_asking(names: list[dns.name.Name]) -> list[dns.name.Name]:
    """The names in an order of their own, of large sets' members few."""
    ordered = sorted(names)
    large = [name for name in ordered if any(part in name.to_text() for part in LARGE)]
    return sorted({*ordered} - {*large} | {*large[::SPARED]})


def allowed_for(whose: str, fields: list[str], case: Case) -> list[Allowed]:
    """The rows that explain these differences; none where they do not explain all of them."""
    rows = [
        row for row in ALLOWED if whose in row.whose and row.fields.intersection(fields) and row.holds(case)
    ]
    explained = frozenset().union(*(row.fields for row in rows))
    return rows if explained.issuperset(fields) else []


def test_they_differ_in_nothing_that_is_not_allowed(replayed: Replayed) -> None:
    faults: list[str] = []
    used: Counter[str] = Counter()
    for asked in replayed.asked:
        ours = replayed.said[OURS][asked.message.id]
        for authority in AUTHORITIES:
            theirs = replayed.said[authority.name][asked.message.id]
            fields = differences(ours, theirs)
            rows = allowed_for(authority.name, fields, Case(asked, ours, theirs, replayed.zones))
            used.update(row.reason for row in rows)
            if fields and not rows:
                faults.append(f"{asked}: {authority.name} has another {', '.join(fields)}: {ours} {theirs}")
    assert not faults, f"{len(faults)} differences, of which the first are:\n" + "\n".join(faults[:5])
    assert [row.reason for row in ALLOWED if row.reason not in used] == [], "rows that nothing needs"


def _size(replayed: Replayed, asked: Asked) -> int:
    """How long our response is."""
    return replayed.said[OURS][asked.message.id].size


def test_everything_is_asked_and_answered_by_all(replayed: Replayed) -> None:
    for said in replayed.said.values():
        assert len(said) == COUNT
    ours = replayed.said[OURS].values()
    assert [str(asked) for asked in replayed.asked if _size(replayed, asked) > asked.limit] == []
    assert {said.rcode for said in ours} == {"NOERROR", "NXDOMAIN", "REFUSED", "SERVFAIL", "BADVERS"}
    assert sum(said.is_cut for said in ours) > 50
    assert sum(bool(said.answer) for said in ours) > COUNT / 4
    assert sum(said.rcode == "NXDOMAIN" for said in ours) > COUNT / 20
    assert sum(any(qtype == "PTR" for _, qtype, *_ in said.answer) for said in ours) > COUNT / 200


def test_the_files_are_read_without_complaint(replayed: Replayed) -> None:
    lines = [line for log in replayed.logs.values() for line in log.splitlines()]
    assert [line for line in lines if "notice: nsd start" not in line] == []
