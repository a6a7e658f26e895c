"""Whether answers were right, of which each is held against all that may have been true when it was given.

An answer tells the truth of one moment. That may be any between the query's sending and the answer's
arrival, a little earlier since news take time (`LAG`), and during a fault any since it began.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from tests.faults.history import Entry, History

LAG = 1.0
"""Seconds after which news of a ZooKeeper that is well are in the answers, on a machine that is not."""
ANSWER_SECONDS = 1.0
"""Within these every query has its answer, also one that a killed process would have answered."""


class Answer(NamedTuple):
    """A query, and what came of it."""

    service: str
    qtype: str
    sent: float
    received: float | None
    """None: nothing came, ever."""
    wire: bytes = b""
    has_edns: bool = False
    via: str = "udp"
    """The protocol, and which of the asker's sockets."""

    def __str__(self) -> str:
        return f"{self.service} {self.qtype} over {self.via} at {self.sent:.3f}"


def objections(history: History, answers: Iterable[Answer]) -> list[str]:
    """What is wrong with the answers: a sentence each."""
    checker = _Checker(history)
    return [f"{answer}: {wrong}" for answer in answers for wrong in checker.wrong(answer)]


class _Checker:
    def __init__(self, history: History) -> None:
        self._history = history
        self._by_address = {entry.address: entry for entry in history.entries}
        self._by_port = {entry.port: entry for entry in history.entries}

    def wrong(self, answer: Answer) -> Iterator[str]:
        if answer.received is None:
            if not any(begin <= answer.sent <= end for begin, end in self._history.excused):
                yield "no answer"
            return
        if answer.received - answer.sent > ANSWER_SECONDS:
            yield f"answered only after {answer.received - answer.sent:.2f} s"
        message = dns.message.from_wire(answer.wire)
        rcode = dns.rcode.to_text(message.rcode())
        if rcode == "SERVFAIL" and answer.sent <= self._history.read_by:
            return
        if answer.received < self._history.unread_until:
            yield f"{rcode} before anything was read"
            return
        yield from self._wrong_age(answer, message)
        begin = self._history.oldest(answer.sent, LAG)
        if rcode == "NXDOMAIN":
            yield from self._wrong_absence(answer, begin)
        elif rcode == "NOERROR":
            yield from self._wrong_members(answer, message, begin)
        else:
            yield rcode

    def _wrong_absence(self, answer: Answer, begin: float) -> Iterator[str]:
        assert answer.received is not None
        lives = self._history.services.get(answer.service, [])
        if any(life.is_throughout(begin, answer.received) for life in lives):
            yield "NXDOMAIN of a service that exists"
        if any(entry.is_held for entry in self._of(answer.service)):
            yield "NXDOMAIN of a service whose members are held"

    def _wrong_members(self, answer: Answer, message: dns.message.Message, begin: float) -> Iterator[str]:
        assert answer.received is not None
        told = list(self._told(answer, message))
        entries = {entry for entry in told if isinstance(entry, Entry)}
        yield from (entry for entry in told if isinstance(entry, str))
        for entry in entries:
            if entry.service != answer.service:
                yield f"{entry.address} belongs to {entry.service}"
            elif not entry.is_held and not entry.may_be_in(begin, answer.received):
                since = "has been gone" if entry.gone < begin else "was not there"
                yield f"{entry.address} {since} (it came {entry.born:.3f}, left {entry.gone:.3f})"
        if message.flags & dns.flags.TC:
            return  # who asks again over TCP is told the rest
        own = self._of(answer.service)
        missing = [
            entry for entry in own if entry not in entries and entry.is_throughout(begin, answer.received)
        ]
        is_held = any(entry.is_held for entry in own)
        if not told and self._history.had_members(answer.service, begin, answer.received):
            yield "empty, and it had members"
        elif not told and is_held:
            yield "empty, and its members are held"
        elif missing:
            yield f"{', '.join(entry.address for entry in missing)} is missing"
        lives = self._history.services.get(answer.service, [])
        exists = any(life.may_be_in(begin, answer.received) for life in lives)
        if not exists and not is_held:
            yield "NOERROR of a service that does not exist"

    def _of(self, service: str) -> list[Entry]:
        return [entry for entry in self._history.entries if entry.service == service]

    def _told(self, answer: Answer, message: dns.message.Message) -> Iterator[Entry | str]:
        """The members that the answer tells of, or why a record is none's."""
        glue = {
            rrset.name: {record.address for record in rrset}
            for rrset in message.additional
            if rrset.rdtype == dns.rdatatype.A
        }
        for rrset in message.answer:
            for record in rrset:
                if answer.qtype == "A":
                    yield self._by_address.get(record.address, f"{record.address} was never registered")
                    continue
                entry = self._by_port.get(record.port)
                if entry is None:
                    yield f"port {record.port} was never registered"
                elif glue.get(record.target, {entry.address}) != {entry.address}:
                    yield f"{record.target} has port {record.port}, but {glue[record.target]}"
                else:
                    yield entry

    def _wrong_age(self, answer: Answer, message: dns.message.Message) -> Iterator[str]:
        """Extended DNS Error 3 stands there while ZooKeeper is away, and at no other time."""
        assert answer.received is not None
        if not answer.has_edns:
            return
        codes = {option.code for option in message.options if isinstance(option, dns.edns.EDEOption)}
        is_told = dns.edns.EDECode.STALE_ANSWER in codes
        faults = self._history.disturbances
        if is_told and not any(each.begin <= answer.received and answer.sent <= each.end for each in faults):
            yield "stale, though nothing is wrong"
        if not is_told and any(
            each.told_from <= answer.sent and answer.received < each.repaired for each in faults
        ):
            yield "not told to be stale, though ZooKeeper is away"


def is_told_stale(message: dns.message.Message) -> bool:
    """Whether the answer says of itself that it is stale."""
    return any(
        isinstance(option, dns.edns.EDEOption) and option.code == dns.edns.EDECode.STALE_ANSWER
        for option in message.options
    )
