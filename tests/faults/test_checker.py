"""The checker itself: it must object to what is wrong, and to nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from tests.faults.checker import ANSWER_SECONDS, LAG, Answer, objections
from tests.faults.history import Disturbance, Entry, History, Life

NAME = "web.staging.discovery."
NOW = 1000.0  # when what is answered was asked, in most cases
LONG_AGO, JUST_NOW = NOW - 10 * LAG, NOW - LAG / 2


def entry(number: int, born: float = LONG_AGO, gone: float = math.inf, **more: object) -> Entry:
    """A member that came and went at once when it did."""
    return Entry(born, born, gone, gone, service="web", number=number, **more)  # type: ignore[arg-type]


def history(*entries: Entry, exists: tuple[float, float] = (LONG_AGO, math.inf)) -> History:
    """A history with these members of web, which exists from then to then."""
    begin, end = exists
    return History(list(entries), {"web": [Life(begin, begin, end, end)]})


def answer(
    *numbers: int,
    rcode: str = "NOERROR",
    qtype: str = "A",
    took: float | None = 0.01,
    stale: bool = False,
    cut: bool = False,
    edit: Callable[[dns.message.Message], None] = lambda _: None,
) -> Answer:
    """An answer with the members of these numbers."""
    response = dns.message.make_response(dns.message.make_query(NAME, qtype, use_edns=0))
    response.set_rcode(dns.rcode.from_text(rcode))
    told = [Entry(0, number=number) for number in numbers]
    if qtype == "A":
        data = [each.address for each in told]
    else:
        data = [f"0 100 {each.port} m{each.number}.{NAME}" for each in told]
        response.additional = [
            dns.rrset.from_text(f"m{each.number}.{NAME}", 5, "IN", "A", each.address) for each in told
        ]
    if data:
        response.answer = [dns.rrset.from_text(NAME, 5, "IN", qtype, *data)]
    if stale:
        option = dns.edns.EDEOption(dns.edns.EDECode.STALE_ANSWER)
        response.use_edns(0, options=[option])
    if cut:
        response.flags |= dns.flags.TC
    edit(response)
    received = None if took is None else NOW + took
    return Answer("web", qtype, NOW, received, response.to_wire(), has_edns=True)


def disturbed(
    known: History, begin: float = LONG_AGO, end: float = math.inf, told: float = math.inf
) -> History:
    known.disturbances.append(Disturbance(begin, end, told, math.inf))
    return known


RIGHT = [
    ("all who are there", history(entry(1), entry(2)), answer(1, 2)),
    ("and by SRV", history(entry(1), entry(2)), answer(1, 2, qtype="SRV")),
    ("who has just come may be missing", history(entry(1), entry(2, JUST_NOW)), answer(1)),
    ("and may be there", history(entry(1), entry(2, JUST_NOW)), answer(1, 2)),
    ("who has just left may be there", history(entry(1), entry(2, gone=JUST_NOW)), answer(1, 2)),
    ("and may be missing", history(entry(1), entry(2, gone=JUST_NOW)), answer(1)),
    ("nobody has been there for long", history(entry(1, gone=NOW - 2 * LAG)), answer()),
    ("the only one has just left", history(entry(1, gone=JUST_NOW)), answer()),
    ("it has just been deleted", history(exists=(LONG_AGO, JUST_NOW)), answer(rcode="NXDOMAIN")),
    ("it has just been made", history(exists=(JUST_NOW, math.inf)), answer(rcode="NXDOMAIN")),
    ("it is cut", history(entry(1), entry(2)), answer(1, cut=True)),
    (
        "old, during a fault",
        disturbed(history(entry(1), entry(2, gone=NOW - 3 * LAG), entry(3, NOW - 3 * LAG))),
        answer(1, 2, stale=True),
    ),
    ("a held one", history(entry(1), entry(2, gone=LONG_AGO, is_held=True)), answer(1, 2)),
]

WRONG = [
    ("never registered", history(entry(1)), answer(1, 7)),
    ("never registered", history(entry(1)), answer(1, 7, qtype="SRV")),
    ("was not there", history(entry(1), entry(2, NOW + LAG)), answer(1, 2)),
    ("has been gone", history(entry(1), entry(2, gone=NOW - 2 * LAG)), answer(1, 2)),
    ("has been gone", history(entry(1), entry(2, gone=NOW - 2 * LAG)), answer(1, 2, cut=True)),
    ("10.0.0.2 is missing", history(entry(1), entry(2)), answer(1)),
    ("10.0.0.2 is missing", history(entry(1), entry(2)), answer(1, qtype="SRV")),
    ("empty, and it had members", history(entry(1)), answer()),
    ("empty, and it had members", history(entry(1, gone=JUST_NOW), entry(2, NOW - 2 * LAG)), answer()),
    ("empty, and it had members", disturbed(history(entry(1)), NOW - LAG), answer(stale=True)),
    # At no moment without one, though none stayed.
    (
        "empty, and it had members",
        disturbed(history(entry(1, LONG_AGO - 2 * LAG, NOW - LAG), entry(2, NOW - 2 * LAG))),
        answer(),
    ),
    ("its members are held", history(entry(1, gone=LONG_AGO, is_held=True)), answer()),
    ("NXDOMAIN of a service that exists", history(entry(1)), answer(rcode="NXDOMAIN")),
    ("NXDOMAIN of a service that exists", disturbed(history(), NOW - LAG), answer(rcode="NXDOMAIN")),
    (
        "NXDOMAIN of a service whose members are held",
        history(entry(1, gone=LONG_AGO, is_held=True), exists=(LONG_AGO, NOW - 2 * LAG)),
        answer(rcode="NXDOMAIN"),
    ),
    ("does not exist", history(exists=(LONG_AGO, NOW - 2 * LAG)), answer()),
    ("SERVFAIL", history(entry(1)), answer(rcode="SERVFAIL")),
    ("REFUSED", history(entry(1)), answer(rcode="REFUSED")),
    ("no answer", history(entry(1)), answer(1, took=None)),
    ("answered only after", history(entry(1)), answer(1, took=ANSWER_SECONDS + 0.1)),
    ("stale, though nothing is wrong", history(entry(1)), answer(1, stale=True)),
    (
        "stale, though nothing is wrong",
        disturbed(history(entry(1)), LONG_AGO, NOW - LAG),
        answer(1, stale=True),
    ),
    ("not told to be stale", disturbed(history(entry(1)), told=NOW - LAG), answer(1)),
    # What is old during a fault must not be older than its begin.
    (
        "has been gone",
        disturbed(history(entry(1), entry(2, gone=NOW - 9 * LAG)), NOW - 5 * LAG),
        answer(1, 2),
    ),
    # After it all must be as it was before.
    (
        "has been gone",
        disturbed(history(entry(1), entry(2, gone=NOW - 5 * LAG)), end=NOW - 2 * LAG),
        answer(1, 2),
    ),
    ("is missing", disturbed(history(entry(1), entry(2, NOW - 5 * LAG)), end=NOW - 2 * LAG), answer(1)),
]


@pytest.mark.parametrize(("_what", "known", "told"), RIGHT, ids=[what for what, _, _ in RIGHT])
def test_it_has_nothing_against(_what: str, known: History, told: Answer) -> None:
    assert objections(known, [told]) == []


@pytest.mark.parametrize(("sentence", "known", "told"), WRONG)
def test_it_objects(sentence: str, known: History, told: Answer) -> None:
    (objection,) = objections(known, [told])
    assert sentence in objection


def test_an_address_of_another_service_is_told() -> None:
    known = history(entry(1))
    known.entries.append(Entry(LONG_AGO, LONG_AGO, service="api", number=2))
    assert "belongs to api" in objections(known, [answer(1, 2)])[0]


def test_the_port_and_the_address_must_be_one_members() -> None:
    def exchange(response: dns.message.Message) -> None:
        response.additional = [dns.rrset.from_text(f"m1.{NAME}", 5, "IN", "A", "10.0.0.2")]

    known = history(entry(1), entry(2))
    told = objections(known, [answer(1, 2, qtype="SRV", edit=exchange)])
    assert any("but {'10.0.0.2'}" in each for each in told)


def test_before_the_first_reading_nothing_but_servfail_is_right() -> None:
    known = history(entry(1))
    known.unread_until = known.read_by = NOW + 1
    assert objections(known, [answer(rcode="SERVFAIL")]) == []
    assert objections(known, [answer(rcode="NXDOMAIN")])
    assert objections(known, [answer(1)])


def test_what_a_killed_process_had_read_is_excused_and_nothing_else() -> None:
    known = history(entry(1))
    known.excused.append((NOW - 0.1, NOW))
    assert objections(known, [answer(1, took=None)]) == []
    known.excused[:] = [(NOW - 0.2, NOW - 0.1)]
    assert objections(known, [answer(1, took=None)])
