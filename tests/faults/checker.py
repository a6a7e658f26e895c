"""Checks responses against the history of ZooKeeper.

A response must be correct for one moment between the sending of its query and its arrival. It may be up to
`LAG` older because changes take time, and during a fault it may be as old as the begin of the fault.
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
        if answer.received is None:
            if not any(begin <= answer.sent <= end for begin, end in self._history.excused):
                yield "no response"
            return
        if answer.received - answer.sent > ANSWER_SECONDS:
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
        for member in members:
            if member.service != answer.service:
                yield f"{member.address} belongs to {member.service}"
            elif not member.is_held and not member.may_exist_in(begin, answer.received):
                problem = "was deleted before" if member.deleted < begin else "was created later"
                times = f"created {member.create_sent:.3f}, deleted {member.deleted:.3f}"
                yield f"{member.address} {problem} ({times})"
        if message.flags & dns.flags.TC:
            return  # a truncated response need not be complete
        own = self._by_service[answer.service]
        missing = [
            member
            for member in own
            if member not in members and member.exists_throughout(begin, answer.received)
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
        if not exists and not any(member.is_held for member in own):
            yield "NOERROR for a service that does not exist"

    def _has_held_members(self, answer: Answer) -> bool:
        """Whether the response must have held members."""
        assert answer.received is not None
        if any(begin <= answer.received and answer.sent <= end for begin, end in self._history.undetected):
            return False
        return any(member.is_held for member in self._by_service[answer.service])

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
        if is_stale and not any(
            fault.begin <= answer.received and answer.sent <= fault.end for fault in faults
        ):
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
