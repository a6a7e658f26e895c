"""What is kept of who came and went: the right words for it, in order, and no more than there is room for."""

import asyncio
from collections.abc import Callable, Sequence

import msgspec
from structlog.testing import capture_logs

from tests.daemon.ipc.feed_helpers import put
from tests.guard.helpers import member, members, origin_of
from zkdns.config import load_config
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.watcher.guarded_publisher import GuardedPublisher
from zkdns.daemon.watcher.history import History
from zkdns.serverset.changes import Change, HostResolved, MembersHeld, SetChanged, SetDropped, SetUnread
from zkdns.serverset.member import Status

ZONE = (b"discovery",)
NOW = 1_800_000_000.0
WEB = origin_of("web")


class Kept:
    """A publisher that is ready with what it has, and the history of all thereafter."""

    def __init__(self, *first: Change, each: int = 1000, most: int = 100_000) -> None:
        self.now = NOW
        self.publisher = Publisher()
        self.history = History(
            self.publisher, ZONE, clock=lambda: self.now, max_per_service=each, max_entries=most
        )
        self.publisher.publish(first)
        self.publisher.set_health(ready=True, stale=False)

    def told(self, *changes: Change) -> list[tuple[str, str]]:
        """What is told of these changes: the kind, and the number of the member."""
        after = self.history.last
        self.publisher.publish(changes)
        entries, _ = self.history.read(None, after, 1000)
        return [(entry.kind, entry.member.removeprefix("member_").lstrip("0")) for entry in entries]


def keep(scenario: Callable[[], None]) -> None:
    async def run() -> None:
        scenario()

    asyncio.run(run())


def changed(added: Sequence[int] = (), removed: Sequence[int] = ()) -> SetChanged:
    return SetChanged(WEB, members(*added), tuple(member(number).name for number in removed))


def test_what_was_there_at_the_start_is_no_change() -> None:
    def scenario() -> None:
        kept = Kept(put("web", *members(1, 2)))
        assert kept.history.read(None, 0, 100) == ((), 0)
        assert kept.history.changed_at((b"web", b"staging", *ZONE)) is None

    keep(scenario)


def test_each_change_has_its_word() -> None:
    def scenario() -> None:
        kept = Kept(put("web", *members(1, 2)))
        starting = msgspec.structs.replace(member(2), status=Status.STARTING)
        weighed = msgspec.structs.replace(starting, weight=0.0)
        assert kept.told(changed([3], [1])) == [("left", "1"), ("joined", "3")]
        assert kept.told(SetChanged(WEB, (starting,), ())) == [("status", "2")]
        assert kept.told(SetChanged(WEB, (weighed,), ())) == [("changed", "2")]
        assert kept.told(SetChanged(WEB, (weighed,), ()), HostResolved("db", ("10.0.0.9",))) == []
        assert kept.told(put("web", member(3), member(4))) == [("left", "2"), ("joined", "4")]
        assert kept.told(put("db", member(1))) == [("service added", ""), ("joined", "1")]
        assert kept.told(SetDropped(origin_of("db"))) == [("left", "1"), ("service gone", "")]
        assert kept.told(SetDropped(origin_of("db")), changed([], [9])) == []
        assert kept.told(SetUnread(origin_of("db"), put("db").name)) == [("service added", "")]

    keep(scenario)


def test_limbo_has_its_words() -> None:
    def scenario() -> None:
        kept = Kept(put("web", *members(1, 2, 3, 4, 5, 6)))
        gone = MembersHeld(WEB, tuple(one.name for one in members(1, 2, 3)))
        assert kept.told(gone) == [("held", "1"), ("held", "2"), ("held", "3")]
        assert kept.told(gone) == []
        assert kept.told(changed([1])) == [("back", "1")]
        elsewhere = member(7, host="10.0.0.2")  # under another name at the same place
        assert kept.told(SetChanged(WEB, (elsewhere,), (member(2).name,))) == [("left", "2"), ("back", "7")]
        assert kept.told(changed([], [3])) == [("released", "3")]
        # Who has left, and is given back, has not joined; not even where the whole service was gone.
        assert kept.told(changed([3]), MembersHeld(WEB, (member(3).name,))) == [("held", "3")]
        assert kept.told(put("db", member(1)), MembersHeld(origin_of("db"), (member(1).name,))) == [
            ("service added", ""),
            ("held", "1"),
        ]

    keep(scenario)


def test_what_the_guard_does_is_told() -> None:
    async def run() -> None:
        kept = Kept()
        config = load_config(flags={}, environment={}, file=None)
        guarding = GuardedPublisher(config, kept.publisher, lambda _ready, _stale: None, session_timeout=10)
        guarding.publish([put("web", *members(1, 2, 3, 4, 5, 6))])
        guarding.set_health(True, True)
        after = kept.history.last
        guarding.publish([changed([], [1, 2, 3, 4, 5, 6])])
        guarding.publish([changed([7])])
        guarding.release([WEB])
        guarding.close()
        kinds = [entry.kind for entry in kept.history.read(None, after, 100)[0]]
        assert kinds == ["held"] * 6 + ["joined"] + ["released"] * 6

    asyncio.run(run())


def test_an_entry_says_all_of_it() -> None:
    def scenario() -> None:
        kept = Kept(put("web"))
        kept.told(changed([3]))
        entries, last = kept.history.read(None, 0, 10)
        (entry,) = map(msgspec.structs.asdict, entries)
        assert entry == {
            "number": int(NOW * 1e6),
            "at": NOW,
            "service": "web.staging",
            "member": "member_0000000003",
            "kind": "joined",
            "endpoint": "10.0.0.3:80",
            "znode": "/discovery/staging/web/member_0000000003",
        }
        assert last == entry["number"]
        assert kept.history.changed_at((b"web", b"staging", *ZONE)) == NOW
        kept.now += 5
        kept.told(changed([], [3]))
        kept.now += 7
        leavers = list(kept.history.departures(60))
        assert leavers == [((b"web", b"staging", *ZONE), WEB, member(3), 7.0)]
        assert list(kept.history.departures(6)) == []

    keep(scenario)


def test_numbers_rise_even_where_the_clock_does_not() -> None:
    def scenario() -> None:
        kept = Kept(put("web"))
        kept.told(changed([1, 2, 3]))
        kept.now -= 3600
        kept.told(changed([4]))
        numbers = [entry.number for entry in kept.history.read(None, 0, 10)[0]]
        assert numbers == [int(NOW * 1e6) + step for step in range(4)]

    keep(scenario)


def test_it_is_read_in_parts_and_of_one_service() -> None:
    def scenario() -> None:
        kept = Kept(put("web"), put("db"))
        for number in range(1, 6):
            kept.told(changed([number]))
            kept.told(SetChanged(origin_of("db"), members(number), ()))
        history = kept.history
        everything, last = history.read(None, 0, 100)
        assert [entry.service for entry in everything] == ["web.staging", "db.staging"] * 5
        assert history.read(None, 0, 3) == (everything[-3:], last)
        first = everything[0].number
        assert history.read(None, first, 4) == (everything[1:5], everything[4].number)
        assert history.read(None, everything[4].number, 100) == (everything[5:], last)
        assert history.read(None, last, 100) == ((), last)
        assert history.read(lambda key, _: key[0] == b"db", 0, 2)[0] == everything[7::2]
        assert history.read(lambda _, origin: origin == WEB, 0, 100)[0] == everything[::2]

    keep(scenario)


def test_of_each_service_and_of_all_only_so_many_are_kept() -> None:
    def scenario() -> None:
        names = [f"s{number}" for number in range(30)]
        kept = Kept(*map(put, names), each=10, most=100)
        for number in range(1, 51):
            kept.told(SetChanged(origin_of("s0"), members(number), ()))
        assert len(kept.history.read(None, 0, 1000)[0]) == 10
        kept.now += 1
        for name in names[1:]:
            for number in range(1, 11):
                kept.told(SetChanged(origin_of(name), members(number), ()))
                assert len(kept.history.read(None, 0, 1000)[0]) <= 100
        newest = kept.history.read(None, 0, 1000)[0]
        assert [entry.service for entry in newest[-10:]] == ["s29.staging"] * 10
        assert newest[0].number > int((NOW + 1) * 1e6)
        assert [entry.number for entry in newest] == sorted(entry.number for entry in newest)
        assert kept.history.changed_at((b"s0", b"staging", *ZONE)) == NOW + 49e-6

    keep(scenario)


def test_services_that_are_gone_are_forgotten_in_the_end() -> None:
    def scenario() -> None:
        kept = Kept(most=20)
        for number in range(100):
            kept.told(put(f"s{number}"), SetDropped(origin_of(f"s{number}")))
        assert len(kept.history._services) <= 21

    keep(scenario)


def test_a_mistake_of_the_history_costs_no_change() -> None:
    def scenario() -> None:
        kept = Kept(put("web"))
        kept.history._add = None  # type: ignore[assignment,method-assign]
        with capture_logs() as logs:
            kept.publisher.publish([changed([1])])
        assert [entry["event"] for entry in logs] == ["history_update_failed"]
        assert kept.publisher.table.services[(b"web", b"staging", *ZONE)].first.members

    keep(scenario)
