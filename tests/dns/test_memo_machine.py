"""Whatever happens in whatever order, what is remembered is what would be answered anew."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.dns.helpers import NAMESPACE, Server, member, origin_of, put, read
from zkdns.config import ServiceOverride
from zkdns.dns.authority import Authority
from zkdns.dns.memo import Memo
from zkdns.names import parse_name, to_wire
from zkdns.namespace import parse_namespace
from zkdns.serverset.changes import (
    Change,
    HostResolved,
    MembersHeld,
    SetChanged,
    SetDropped,
    SetPut,
    SetUnread,
)
from zkdns.serverset.member import Member
from zkdns.transport.tcp import Streams
from zkdns.transport.udp import Datagrams

SUB = parse_namespace("/sub/{environment}/{service}", (b"sub", b"discovery"))

# Services that hide in one another, and look like members, shards or endpoints of others, or like RFC 2782.
SERVICES = (
    "web.staging",
    "Web.staging",
    "v2.web.staging",
    "m1.web.staging",
    "x.m1.web.staging",
    "s3.web.staging",
    "_tcp.web.staging",
    "_tcp.staging",
    "_web._tcp.staging",
    "api.staging",
    "api.prod",
    "web.staging.sub",
)
NAMES = (
    *("web.staging", "m1.web.staging", "m2.web.staging", "member_0000000001.web.staging", "s3.web.staging"),
    *("m2-admin.web.staging", "_admin._tcp.web.staging", "_a.b._tcp.web.staging", "b._tcp.web.staging"),
    *("_tcp.web.staging", "nope.web.staging", "x.y.web.staging", "v2.web.staging", "m1.v2.web.staging"),
    *("x.m1.web.staging", "m1.m1.web.staging", "_web._tcp.staging", "_v2.web._tcp.staging", "_tcp.staging"),
    *("web._tcp.staging", "_m1.web._tcp.staging", "m1._web._tcp.staging", "api.staging", "m2.api.staging"),
    *("_api._tcp.staging", "nope.staging", "staging", "prod", "api.prod", "_api._tcp.prod", "", "sub"),
    *("web.staging.sub", "staging.sub", "_web._tcp.staging.sub", "m1.web.staging.sub", "nope.sub"),
)
_TYPES = (1, 1, 28, 33, 33, 16, 255, 2, 6, 5, 65, 97, 252, 0x4161)
_HOSTS = ("10.0.0.1:80", "10.0.0.2:80", "10.0.0.2:81", "[2001:db8::1]:80", "host-a:80", "db.example.com:80")
# Those of header and OPT whose bytes are letters, so that they differ as capital letters from small ones do.
_LOW_FLAGS = (0, 0, 0, 0x10, 0x40, 0x60, 0x41, 0x61)
_SIZES = (0, 512, 600, 0x4141, 0x6161)
_COOKIE = b"\0\x0a\0\x08" + b"12345678"
_MOST_TURNS = 150  # more than any cycle here is long


class Question(NamedTuple):
    """What is asked, whatever its spelling."""

    name: str
    qtype: int
    qclass: int
    flags: int
    opt: bytes
    stream: bool

    def message(self, spelling: int) -> bytes:
        """The query; each bit of `spelling` makes a letter large."""
        text = "".join(
            letter.upper() if spelling >> at % 24 & 1 else letter for at, letter in enumerate(self.name)
        )
        counts = (4711, self.flags, 1, 0, 0, bool(self.opt))
        header = b"".join(count.to_bytes(2) for count in counts)
        question = to_wire(parse_name(text)) + self.qtype.to_bytes(2) + self.qclass.to_bytes(2)
        return header + question + self.opt


@st.composite
def questions(draw: st.DrawFn) -> Question:
    name = draw(st.sampled_from(NAMES))
    flags = draw(st.sampled_from((0x0100, 0))) | draw(st.sampled_from(_LOW_FLAGS))
    opt = b""
    if draw(st.booleans()):
        options = draw(st.sampled_from((b"", b"", b"", _COOKIE)))
        version = draw(st.sampled_from((0, 0, 0, 0, 1)))
        opt = b"\0\0\x29" + draw(st.sampled_from(_SIZES)).to_bytes(2) + bytes((0, version))
        opt += draw(st.sampled_from((0, 0x8000))).to_bytes(2) + len(options).to_bytes(2) + options
    return Question(
        f"{name}.discovery".lstrip("."),
        draw(st.sampled_from(_TYPES)),
        draw(st.sampled_from((1, 1, 1, 1, 1, 3))),
        flags,
        opt,
        draw(st.booleans()),
    )


def twin(question: Question) -> Question:
    """Another one that differs from it as capital letters from small ones, but not in its name."""
    return question._replace(qtype=question.qtype ^ 0x20, flags=question.flags ^ 0x20)


@st.composite
def members(draw: st.DrawFn) -> Member:
    additional = {}
    if draw(st.booleans()):
        additional["admin"] = draw(st.sampled_from(_HOSTS))
    if draw(st.integers(0, 4)) == 0:
        additional["a.b"] = draw(st.sampled_from(_HOSTS))
    return member(
        draw(st.integers(0, 5)),
        draw(st.sampled_from((*_HOSTS, None))),
        additional=additional,
        status=draw(st.sampled_from(("ALIVE", "ALIVE", "ALIVE", "STARTING"))),
        shard=draw(st.sampled_from((None, 3))),
        weight=draw(st.sampled_from((1.0, 1.0, 1.0, 0.5, 0.0, -1.0))),
    )


services = st.sampled_from(SERVICES)
some_members = st.lists(members(), max_size=5, unique_by=lambda entry: entry.name)
names_of_members = st.lists(st.integers(0, 5).map("member_{:010d}".format), max_size=3)


def canonical(body: bytes) -> list[Any]:
    """A response with its records in no order."""
    message = read(bytes(2) + body)
    sections = [
        Counter((record.name.to_text(), record.rdtype, record.ttl, record[0]) for record in records)
        for records in (message.answer, message.authority, message.additional)
    ]
    return [
        body[:2],
        *map(str, message.question),
        message.edns,
        message.ednsflags,
        message.options,
        *sections,
    ]


class MemoMachine(RuleBasedStateMachine):
    """Changes of the table, between which the same is asked again, of it and of who has no memory."""

    @initialize(
        order=st.sampled_from(("round-robin", "round-robin", "fixed", "random")),
        empty=st.sampled_from(("nodata", "nxdomain")),
        max_answers=st.sampled_from((None, None, 1, 2)),
        most=st.sampled_from((1 << 24, 1 << 24, 30_000)),
        entries=st.sampled_from((1 << 16, 1 << 16, 5)),
        asked=st.lists(questions(), min_size=12, max_size=16),
        twins=st.integers(0, 2),
        spellings=st.lists(st.integers(0, (1 << 24) - 1), min_size=2, max_size=2),
    )
    def begin(
        self,
        most: int,
        entries: int,
        asked: list[Question],
        twins: int,
        spellings: list[int],
        **settings: Any,
    ) -> None:
        # What is drawn by lot, and not all of it, could not be compared.
        most_answers = settings["max_answers"] if settings["order"] == "random" else 1
        own = ServiceOverride(ttl=9, max_answers=most_answers)
        self.server = Server(namespaces=(NAMESPACE, SUB), service={"api.prod.discovery": own}, **settings)
        self.memos = [
            self.server.authority.answers(form, stream=stream, most_bytes=most)
            for form, stream in ((Datagrams, False), (Streams, True))
        ]
        self.server.datagrams, self.server.streams = self.memos
        for memo in self.memos:
            memo._most_entries = entries
        self.most = most
        self.now = 0.0
        self.asked = [*asked, *map(twin, asked[:twins])]
        self.spellings = itertools.cycle([0, *spellings])
        self.fresh: Authority | None = None
        for service in ("web.staging", "v2.web.staging", "api.staging", "web.staging.sub"):
            self.put_members(service, [member(1, "10.0.0.1:80"), member(2, "host-a:80", shard=3)])

    def origin(self, service: str) -> str:
        return origin_of(service) if not service.endswith(".sub") else f"/sub/{service}"

    def apply(self, change: Change) -> None:
        """As the feed does it: the serial is there before the change is told of."""
        self.fresh = None
        keys = self.server.table.apply(change, self.now)
        self.server.table.serial += bool(keys)
        self.server.authority.refresh(keys)

    # -- what happens ----------------------------------------------------------------------------------------

    @rule(service=services, entries=some_members)
    def put(self, service: str, entries: list[Member]) -> None:
        self.put_members(service, entries)

    def put_members(self, service: str, entries: list[Member]) -> None:
        full = f"{service}.discovery" if service.endswith(".sub") else service
        made = put(full, entries, self.origin(service), (NAMESPACE, SUB))
        assert isinstance(made, SetPut)
        self.apply(made)

    @rule(service=services)
    def come_or_go(self, service: str) -> None:
        if self.server.table.set_of(self.origin(service)):
            self.drop(service)
        else:
            self.put_members(service, [member(1, "10.0.0.1:80"), member(2, "10.0.0.2:80")])

    @rule(service=services)
    def empty(self, service: str) -> None:
        self.put_members(service, [])

    @rule(service=services, added=some_members, removed=names_of_members)
    def change(self, service: str, added: list[Member], removed: list[str]) -> None:
        self.apply(SetChanged(self.origin(service), tuple(added), tuple(removed)))

    @rule(service=services, names=names_of_members)
    def hold(self, service: str, names: list[str]) -> None:
        self.apply(MembersHeld(self.origin(service), tuple(names)))

    @rule(service=services)
    def drop(self, service: str) -> None:
        self.apply(SetDropped(self.origin(service)))

    @rule(service=services)
    def cannot_be_read(self, service: str) -> None:
        full = f"{service}.discovery" if service.endswith(".sub") else service
        name = put(full, (), self.origin(service), (NAMESPACE, SUB)).name
        self.apply(SetUnread(self.origin(service), name))

    @rule(host=st.sampled_from(("host-a", "db.example.com")), number=st.integers(0, 3))
    def resolve(self, host: str, number: int) -> None:
        self.apply(HostResolved(host, tuple(f"192.0.2.{at}" for at in range(number))))

    @rule(seconds=st.sampled_from((1.0, 30.0, 61.0)))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.fresh = None
        self.server.expire(self.now)

    @rule(ready=st.sampled_from((True, True, False)), stale=st.booleans())
    def tell_health(self, ready: bool, stale: bool) -> None:
        self.fresh = None
        self.server.authority.set_health(ready=ready, stale=stale)

    @rule(by=st.integers(0, 1 << 31))
    def count_the_serial_on(self, by: int) -> None:
        self.server.table.serial = (self.server.table.serial + by) & 0xFFFFFFFF

    # -- what is asked ---------------------------------------------------------------------------------------

    @invariant()
    def all_is_answered_as_it_would_be_anew(self) -> None:
        if not hasattr(self, "asked"):
            return  # this is before the beginning
        spelling = next(self.spellings)
        for question in self.asked:
            self.check(question.message(spelling), stream=question.stream)

    def check(self, message: bytes, *, stream: bool) -> None:
        expected = self.without_memory().responder.answer(message[2:], stream=stream).responses
        body = (self.server.respond(message, stream=stream) or b"")[2:]
        if self.server.config.order == "random" and not self.server.config.max_answers:
            found, other = canonical(body), canonical(next(expected))
            # What has no room is left out, and another order may leave room for other records.
            assert found == other or len(body) > 400
        elif self.server.config.order != "random":
            assert body in itertools.islice(expected, _MOST_TURNS)

    def without_memory(self) -> Authority:
        if self.fresh is None:
            server = self.server
            self.fresh = Authority(server.table, server.config, _fail, random.Random(1))
            self.fresh.responder.ready = server.responder.ready
            self.fresh.responder.stale = server.responder.stale
        return self.fresh

    # -- what is kept ----------------------------------------------------------------------------------------

    @invariant()
    def the_account_of_what_is_kept_is_right(self) -> None:
        for memo in getattr(self, "memos", ()):
            assert_account_is_right(memo)
            assert memo.size <= self.most
            assert len(memo) <= memo._most_entries


def assert_account_is_right(memo: Memo) -> None:
    """All that is written down of what is remembered fits together."""
    listed = list(itertools.chain.from_iterable(memo._keys.values()))
    assert sorted(listed) == sorted(memo) == sorted(memo._entries)
    assert memo._answers.used == sum(entry.size for entry in memo._entries.values())
    rotations = [entry.rotation for entry in memo._entries.values() if entry.rotation]
    assert memo._responses.used == sum(rotation.kept for rotation in rotations)
    assert all(key in memo._folded or entry.folded is None for key, entry in _spelled(memo))
    assert len(memo._folded) <= len(memo)


def _spelled(memo: Memo) -> Iterable[tuple[bytes, Any]]:
    return ((entry.folded or b"", entry) for entry in memo._entries.values())


def _fail(_query: bytes, error: Exception) -> None:
    raise error


TestMemoMachine = MemoMachine.TestCase
TestMemoMachine.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
