"""The checker reports wrong responses, and accepts correct ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from tests.faults.checker import ANSWER_SECONDS, LAG, Answer, find_errors
from tests.faults.history import Fault, History, Lifetime, MemberLifetime

NAME = "web.staging.discovery."
NOW = 1000.0  # the time of the query, in most cases
LONG_AGO, JUST_NOW = NOW - 10 * LAG, NOW - LAG / 2


def member(
    number: int, create_sent: float = LONG_AGO, deleted: float = math.inf, **more: object
) -> MemberLifetime:
    """A member; its creation and deletion took no time."""
    return MemberLifetime(create_sent, create_sent, deleted, deleted, service="web", number=number, **more)  # type: ignore[arg-type]


def history(*members: MemberLifetime, exists: tuple[float, float] = (LONG_AGO, math.inf)) -> History:
    """A history of the service `web` with these members. `exists` is the lifetime of the service."""
    begin, end = exists
    return History(list(members), {"web": [Lifetime(begin, begin, end, end)]})


def answer(
    *numbers: int,
    held: Collection[int] = (),
    rcode: str = "NOERROR",
    qtype: str = "A",
    took: float | None = 0.01,
    stale: bool = False,
    truncated: bool = False,
    edit: Callable[[dns.message.Message], None] = lambda _: None,
) -> Answer:
    """A response with the members of these numbers. Those in `held` have SRV priority 1."""
    response = dns.message.make_response(dns.message.make_query(NAME, qtype, use_edns=0))
    response.set_rcode(dns.rcode.from_text(rcode))
    members = [MemberLifetime(0, number=number) for number in numbers]
    if qtype == "A":
        data = [each.address for each in members]
    else:
        data = [f"{int(each.number in held)} 100 {each.port} m{each.number}.{NAME}" for each in members]
        response.additional = [
            dns.rrset.from_text(f"m{each.number}.{NAME}", 5, "IN", "A", each.address) for each in members
        ]
    if data:
        response.answer = [dns.rrset.from_text(NAME, 5, "IN", qtype, *data)]
    if stale:
        option = dns.edns.EDEOption(dns.edns.EDECode.STALE_ANSWER)
        response.use_edns(0, options=[option])
    if truncated:
        response.flags |= dns.flags.TC
    edit(response)
    received = None if took is None else NOW + took
    return Answer("web", qtype, NOW, received, response.to_wire(want_shuffle=False), has_edns=True)


def with_fault(
    known: History, begin: float = LONG_AGO, end: float = math.inf, stale: float = math.inf
) -> History:
    known.faults.append(Fault(begin, end, stale, math.inf))
    return known


def confirmed(known: History, when: float) -> History:
    known.faults[-1].confirmed = when
    return known


def with_undetected(known: History, begin: float, end: float) -> History:
    known.undetected.append((begin, end))
    return known


CORRECT = [
    ("all members", history(member(1), member(2)), answer(1, 2)),
    ("all members by SRV", history(member(1), member(2)), answer(1, 2, qtype="SRV")),
    ("new member is missing", history(member(1), member(2, JUST_NOW)), answer(1)),
    ("new member is present", history(member(1), member(2, JUST_NOW)), answer(1, 2)),
    ("deleted member is present", history(member(1), member(2, deleted=JUST_NOW)), answer(1, 2)),
    ("deleted member is missing", history(member(1), member(2, deleted=JUST_NOW)), answer(1)),
    ("no members", history(member(1, deleted=NOW - 2 * LAG)), answer()),
    ("last member was just deleted", history(member(1, deleted=JUST_NOW)), answer()),
    ("service was just deleted", history(exists=(LONG_AGO, JUST_NOW)), answer(rcode="NXDOMAIN")),
    ("service was just created", history(exists=(JUST_NOW, math.inf)), answer(rcode="NXDOMAIN")),
    ("truncated", history(member(1), member(2)), answer(1, truncated=True)),
    (
        "old during a fault",
        with_fault(history(member(1), member(2, deleted=NOW - 3 * LAG), member(3, NOW - 3 * LAG))),
        answer(1, 2, stale=True),
    ),
    (
        "old during a fault without a confirmation",
        with_fault(history(member(1), member(2, JUST_NOW - LAG / 2)), JUST_NOW),
        answer(1, stale=True),
    ),
    (
        "no held member before the mass deletion is detected",
        with_undetected(history(member(1, deleted=LONG_AGO, is_held=True)), JUST_NOW, NOW),
        answer(),
    ),
    ("held member", history(member(1), member(2, deleted=LONG_AGO, is_held=True)), answer(1, 2)),
    (
        "held member by SRV",
        history(member(1), member(2, deleted=LONG_AGO, is_held=True)),
        answer(1, 2, qtype="SRV", held=[2]),
    ),
    (
        "member that is held later is not yet created",
        history(member(1, NOW + 1, NOW + 2, is_held=True), exists=(NOW + 1, math.inf)),
        answer(rcode="NXDOMAIN"),
    ),
    (
        "held member may be gone at the end of its time",
        history(member(1), member(2, deleted=LONG_AGO, is_held=True, held_until=NOW)),
        answer(1),
    ),
    (
        "held member may be there just after its release",
        history(member(1), member(2, deleted=LONG_AGO, is_held=True, released=JUST_NOW)),
        answer(1, 2),
    ),
    ("member registers again", history(member(1), member(2, gaps=[(JUST_NOW, NOW)])), answer(1)),
    (
        "live member is held at the begin of a fault",
        confirmed(with_fault(history(member(1), member(2)), JUST_NOW), JUST_NOW),
        answer(2, 1, qtype="SRV", held=[1, 2], stale=True),
    ),
    (
        "live member is held during a fault",
        with_fault(history(member(1), member(2))),
        answer(2, 1, qtype="SRV", held=[1, 2]),
    ),
]

WRONG = [
    ("never registered", history(member(1)), answer(1, 7)),
    ("never registered", history(member(1)), answer(1, 7, qtype="SRV")),
    ("was created later", history(member(1), member(2, NOW + LAG)), answer(1, 2)),
    ("was deleted before", history(member(1), member(2, deleted=NOW - 2 * LAG)), answer(1, 2)),
    (
        "was deleted before",
        history(member(1), member(2, deleted=NOW - 2 * LAG)),
        answer(1, 2, truncated=True),
    ),
    ("10.0.0.2 is missing", history(member(1), member(2)), answer(1)),
    ("10.0.0.2 is missing", history(member(1), member(2)), answer(1, qtype="SRV")),
    ("empty answer for a service with members", history(member(1)), answer()),
    (
        "empty answer for a service with members",
        history(member(1, deleted=JUST_NOW), member(2, NOW - 2 * LAG)),
        answer(),
    ),
    (
        "empty answer for a service with members",
        with_fault(history(member(1)), NOW - LAG),
        answer(stale=True),
    ),
    # The service always had a member, but not always the same one.
    (
        "empty answer for a service with members",
        with_fault(history(member(1, LONG_AGO - 2 * LAG, NOW - LAG), member(2, NOW - 2 * LAG))),
        answer(),
    ),
    (
        "empty answer for a service with held members",
        history(member(1, deleted=LONG_AGO, is_held=True)),
        answer(),
    ),
    (
        "empty answer for a service with held members",
        with_undetected(history(member(1, deleted=LONG_AGO, is_held=True)), LONG_AGO, JUST_NOW),
        answer(),
    ),
    (
        "10.0.0.2 is missing",
        history(member(1), member(2, deleted=LONG_AGO, is_held=True, held_until=NOW + LAG)),
        answer(1),
    ),
    (
        "was deleted before",
        history(member(1), member(2, deleted=LONG_AGO, is_held=True, released=NOW - 2 * LAG)),
        answer(1, 2, qtype="SRV", held=[2]),
    ),
    (
        "is held and has priority 0",
        history(member(1), member(2, deleted=LONG_AGO, is_held=True)),
        answer(1, 2, qtype="SRV"),
    ),
    ("exists and has priority 1", history(member(1), member(2)), answer(1, 2, qtype="SRV", held=[2])),
    (
        "10.0.0.1 exists and comes after the held 10.0.0.2",
        history(member(1), member(2, deleted=LONG_AGO, is_held=True)),
        answer(2, 1),
    ),
    (
        "10.0.0.2 is missing",
        history(member(1), member(2, gaps=[(NOW - 9 * LAG, NOW - 8 * LAG)])),
        answer(1),
    ),
    ("NXDOMAIN for an existing service", history(member(1)), answer(rcode="NXDOMAIN")),
    ("NXDOMAIN for an existing service", with_fault(history(), NOW - LAG), answer(rcode="NXDOMAIN")),
    (
        "NXDOMAIN for a service with held members",
        history(member(1, deleted=LONG_AGO, is_held=True), exists=(LONG_AGO, NOW - 2 * LAG)),
        answer(rcode="NXDOMAIN"),
    ),
    ("does not exist", history(exists=(LONG_AGO, NOW - 2 * LAG)), answer()),
    ("SERVFAIL", history(member(1)), answer(rcode="SERVFAIL")),
    ("REFUSED", history(member(1)), answer(rcode="REFUSED")),
    ("no response", history(member(1)), answer(1, took=None)),
    ("late response", history(member(1)), answer(1, took=ANSWER_SECONDS + 0.1)),
    ("marked as stale without a fault", history(member(1)), answer(1, stale=True)),
    (
        "marked as stale without a fault",
        with_fault(history(member(1)), LONG_AGO, NOW - LAG),
        answer(1, stale=True),
    ),
    ("not marked as stale", with_fault(history(member(1)), stale=NOW - LAG), answer(1)),
    (
        "10.0.0.2 is missing",
        confirmed(with_fault(history(member(1), member(2, JUST_NOW - LAG / 2)), JUST_NOW), JUST_NOW),
        answer(1, stale=True),
    ),
    # During a fault, responses must not be older than its begin.
    (
        "was deleted before",
        with_fault(history(member(1), member(2, deleted=NOW - 9 * LAG)), NOW - 5 * LAG),
        answer(1, 2),
    ),
    # After a fault, responses must be up to date again.
    (
        "was deleted before",
        with_fault(history(member(1), member(2, deleted=NOW - 5 * LAG)), end=NOW - 2 * LAG),
        answer(1, 2),
    ),
    ("is missing", with_fault(history(member(1), member(2, NOW - 5 * LAG)), end=NOW - 2 * LAG), answer(1)),
]


@pytest.mark.parametrize(("_case", "known", "response"), CORRECT, ids=[case for case, _, _ in CORRECT])
def test_correct_response_is_accepted(_case: str, known: History, response: Answer) -> None:
    assert find_errors(known, [response]) == []


@pytest.mark.parametrize(("sentence", "known", "response"), WRONG)
def test_wrong_response_is_reported(sentence: str, known: History, response: Answer) -> None:
    (error,) = find_errors(known, [response])
    assert sentence in error


def test_address_of_another_service_is_reported() -> None:
    known = history(member(1))
    known.all_members.append(MemberLifetime(LONG_AGO, LONG_AGO, service="api", number=2))
    assert "belongs to api" in find_errors(known, [answer(1, 2)])[0]


def test_port_and_address_must_belong_to_the_same_member() -> None:
    def exchange(response: dns.message.Message) -> None:
        response.additional = [dns.rrset.from_text(f"m1.{NAME}", 5, "IN", "A", "10.0.0.2")]

    known = history(member(1), member(2))
    errors = find_errors(known, [answer(1, 2, qtype="SRV", edit=exchange)])
    assert any("but {'10.0.0.2'}" in each for each in errors)


def test_member_must_be_listed_once() -> None:
    def repeat(response: dns.message.Message) -> None:
        response.answer += [
            dns.rrset.from_text(NAME, 5, "IN", "SRV", f"0 100 {MemberLifetime(0, number=1).port} m9.{NAME}")
        ]

    (error,) = find_errors(history(member(1)), [answer(1, qtype="SRV", edit=repeat)])
    assert "listed twice" in error


def test_late_responses_are_excused_only_while_the_server_was_stopped() -> None:
    known = history(member(1))
    late = answer(1, took=ANSWER_SECONDS + 1)
    assert "late response" in find_errors(known, [late])[0]
    known.excused.append((NOW - 1, NOW + 1))
    assert find_errors(known, [late]) == []


def test_only_servfail_is_correct_before_zookeeper_is_read() -> None:
    known = history(member(1))
    known.unread_until = known.read_by = NOW + 1
    assert find_errors(known, [answer(rcode="SERVFAIL")]) == []
    assert find_errors(known, [answer(rcode="NXDOMAIN")])
    assert find_errors(known, [answer(1)])


def test_lost_queries_are_excused_only_when_a_process_was_killed() -> None:
    known = history(member(1))
    known.excused.append((NOW - 0.1, NOW))
    assert find_errors(known, [answer(1, took=None)]) == []
    known.excused[:] = [(NOW - 0.2, NOW - 0.1)]
    assert find_errors(known, [answer(1, took=None)])
