"""Checks responses against the history of ZooKeeper.

A response must be correct for one moment between the sending of its query and its arrival. It may be up to
`LAG` older because changes take time, and during a fault it may be as old as the begin of the fault.
Members that were deleted by a failure are held: responses have them after all others, with SRV priority 1,
until they return, their time ends, or they are released.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from tests.faults.history import History, MemberLifetime

LAG = 2.0
"""Seconds within which a change must be in responses while ZooKeeper works, on a busy machine."""
ANSWER_SECONDS = 3.0
"""Seconds within which each query must get its response, even if its worker is killed and replaced.

That takes less than a second, but longer on a busy machine. Stub resolvers repeat a query after 5 s
(resolv.conf(5)).
"""


class Answer(NamedTuple):
    """A query and its response."""

    service: str
    qtype: str
    sent: float
    received: float | None
    """None: there was no response."""
    wire: bytes = b""
    has_edns: bool = False
    via: str = "udp"
    """The transport, and over UDP the number of the client socket."""

    def __str__(self) -> str:
        return f"{self.service} {self.qtype} over {self.via} at {self.sent:.3f}"


def find_errors(history: History, answers: Iterable[Answer]) -> list[str]:
    """The errors of all responses, one sentence each."""
    checker = _Checker(history)
    return [f"{answer}: {error}" for answer in answers for error in checker.errors(answer)]


class _Checker:
    def __init__(self, history: History) -> None:
        self._history = history
        self._by_address = {member.address: member for member in history.all_members}
        self._by_port = {member.port: member for member in history.all_members}
        self._by_service: dict[str, list[MemberLifetime]] = defaultdict(list)
        for member in history.all_members:
            self._by_service[member.service].append(member)
        self._parsed: dict[bytes, dns.message.Message] = {}

    def errors(self, answer: Answer) -> Iterator[str]:
        is_excused = any(begin <= answer.sent <= end for begin, end in self._history.excused)
        if answer.received is None:
            if not is_excused:
                yield "no response"
            return
        if not is_excused and answer.received - answer.sent > ANSWER_SECONDS:
            yield f"late response, after {answer.received - answer.sent:.2f} s"
        message = self._parse(answer.wire)
        rcode = dns.rcode.to_text(message.rcode())
        if rcode == "SERVFAIL" and answer.sent <= self._history.read_by:
            return
        if answer.received < self._history.unread_until:
            yield f"{rcode} before ZooKeeper was read"
            return
        yield from self._stale_errors(answer, message)
        begin = self._history.oldest(answer.sent, LAG)
        if rcode == "NXDOMAIN":
            yield from self._nxdomain_errors(answer, begin)
        elif rcode == "NOERROR":
            yield from self._member_errors(answer, message, begin)
        else:
            yield rcode

    def _parse(self, wire: bytes) -> dns.message.Message:
        """Parse a response. Most responses differ only in their ID and are parsed once."""
        content = wire[2:]
        if content not in self._parsed:
            self._parsed[content] = dns.message.from_wire(wire)
        return self._parsed[content]

    def _nxdomain_errors(self, answer: Answer, begin: float) -> Iterator[str]:
        assert answer.received is not None
        if self._is_undetected(answer):
            return
        lifetimes = self._history.services.get(answer.service, [])
        if any(lifetime.exists_throughout(begin, answer.received) for lifetime in lifetimes):
            yield "NXDOMAIN for an existing service"
        if self._has_held_members(answer):
            yield "NXDOMAIN for a service with held members"

    def _member_errors(self, answer: Answer, message: dns.message.Message, begin: float) -> Iterator[str]:
        assert answer.received is not None
        found = list(self._members_in(answer, message))
        members = {member for member in found if isinstance(member, MemberLifetime)}
        yield from (error for error in found if isinstance(error, str))
        if len(found) > len(set(found)):
            yield "a member is listed twice"
        for member in members:
            yield from self._wrong_member_errors(member, answer, begin)
        if not self._history.is_near_fault(answer.sent - LAG, answer.received):
            yield from self._order_errors(answer, message, begin)
        if message.flags & dns.flags.TC or self._is_undetected(answer):
            return  # it need not be complete
        own = self._by_service[answer.service]
        missing = [
            member
            for member in own
            if member not in members
            and (
                member.exists_throughout(begin, answer.received)
                or (member.deleted <= begin and self._must_be_held(member, answer))
            )
        ]
        is_held = self._has_held_members(answer)
        if not found and self._history.had_member_throughout(answer.service, begin, answer.received):
            yield "empty answer for a service with members"
        elif not found and is_held:
            yield "empty answer for a service with held members"
        elif missing:
            yield f"{', '.join(member.address for member in missing)} is missing"
        lifetimes = self._history.services.get(answer.service, [])
        exists = any(lifetime.may_exist_in(begin, answer.received) for lifetime in lifetimes)
        if not exists and not any(member.is_held and begin <= member.released for member in own):
            yield "NOERROR for a service that does not exist"

    def _wrong_member_errors(self, member: MemberLifetime, answer: Answer, begin: float) -> Iterator[str]:
        """Why a member must not be in a response."""
        assert answer.received is not None
        is_held = member.is_held and begin <= member.released
        if member.service != answer.service:
            yield f"{member.address} belongs to {member.service}"
        elif not member.may_exist_in(begin, answer.received) and not is_held:
            problem = "was deleted before" if member.deleted < begin else "was created later"
            times = f"created {member.create_sent:.3f}, deleted {member.deleted:.3f}"
            yield f"{member.address} {problem} ({times})"

    def _has_held_members(self, answer: Answer) -> bool:
        """Whether the response must have held members."""
        return any(self._must_be_held(member, answer) for member in self._by_service[answer.service])

    def _is_undetected(self, answer: Answer) -> bool:
        assert answer.received is not None
        received = answer.received
        return any(begin <= received and answer.sent <= end for begin, end in self._history.undetected)

    def _must_be_held(self, member: MemberLifetime, answer: Answer) -> bool:
        assert answer.received is not None
        if self._is_undetected(answer):
            return False
        created = member.created <= self._history.oldest(answer.sent, LAG)
        return member.is_held and created and answer.received < member.held_until

    def _order_errors(self, answer: Answer, message: dns.message.Message, begin: float) -> Iterator[str]:
        """Held members come after all others, and only they have SRV priority 1."""
        assert answer.received is not None
        held_before = ""
        for member, priority in self._ordered(answer, message):
            if member.exists_throughout(begin, answer.received):
                if priority != 0:
                    yield f"{member.address} exists and has priority {priority}"
                if held_before:
                    yield f"{member.address} exists and comes after the held {held_before}"
                    return
            elif member.is_held and member.deleted < begin:
                if priority == 0 and answer.qtype == "SRV":
                    yield f"{member.address} is held and has priority 0"
                held_before = member.address

    def _ordered(self, answer: Answer, message: dns.message.Message) -> Iterator[tuple[MemberLifetime, int]]:
        """The members of a response in its order, each with its SRV priority; 0 in A records."""
        for rrset in message.answer:
            for record in rrset:
                if answer.qtype == "A":
                    member, priority = self._by_address.get(record.address), 0
                else:
                    member, priority = self._by_port.get(record.port), record.priority
                if member is not None:
                    yield member, priority

    def _members_in(self, answer: Answer, message: dns.message.Message) -> Iterator[MemberLifetime | str]:
        """The members of a response; for records without a member, the error."""
        additional = {
            rrset.name: {record.address for record in rrset}
            for rrset in message.additional
            if rrset.rdtype == dns.rdatatype.A
        }
        for rrset in message.answer:
            for record in rrset:
                if answer.qtype == "A":
                    yield self._by_address.get(record.address, f"{record.address} was never registered")
                    continue
                member = self._by_port.get(record.port)
                if member is None:
                    yield f"port {record.port} was never registered"
                elif additional.get(record.target, {member.address}) != {member.address}:
                    yield f"{record.target} has port {record.port}, but {additional[record.target]}"
                else:
                    yield member

    def _stale_errors(self, answer: Answer, message: dns.message.Message) -> Iterator[str]:
        """Extended DNS Error 3 (stale answer) must be set if and only if ZooKeeper is unavailable."""
        assert answer.received is not None
        if not answer.has_edns:
            return
        is_stale = is_marked_stale(message)
        faults = self._history.faults
        outages = [*((fault.begin, fault.end) for fault in faults), *self._history.outages]
        if is_stale and not any(begin <= answer.received and answer.sent <= end for begin, end in outages):
            yield "marked as stale without a fault"
        if not is_stale and any(
            fault.stale_from <= answer.sent and answer.received < fault.repaired for fault in faults
        ):
            yield "not marked as stale while ZooKeeper is unavailable"


def is_marked_stale(message: dns.message.Message) -> bool:
    """Whether a response has Extended DNS Error 3 (stale answer)."""
    return any(
        isinstance(option, dns.edns.EDEOption) and option.code == dns.edns.EDECode.STALE_ANSWER
        for option in message.options
    )
