"""The history of changes: kinds of entries, order, paging and limits."""

import asyncio
import math
from collections.abc import Callable, Sequence

import msgspec
from structlog.testing import capture_logs

from tests.daemon.ipc.feed_helpers import health_of, put
from tests.guard.helpers import member, members, origin_of
from tests.support.line_count import at_most_lines
from zkdns.config import load_config
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.watcher.guarded_publisher import GuardedPublisher
from zkdns.daemon.watcher.history import History
from zkdns.serverset.changes import Change, HostResolved, MembersHeld, SetChanged, SetDropped, SetUnread
from zkdns.serverset.member import Status

ZONE = (b"discovery",)
NOW = 1_800_000_000.0
WEB = origin_of("web")


class Recorder:
    """A publisher that is ready with its first changes, and the history of the following ones."""

    def __init__(self, *first: Change, max_per_service: int = 1000, max_entries: int = 100_000) -> None:
        self.now = NOW
        self.publisher = Publisher()
        self.history = History(
            self.publisher,
            ZONE,
            clock=lambda: self.now,
            max_per_service=max_per_service,
            max_entries=max_entries,
        )
        self.publisher.add_listener(self.history)
        self.publisher.publish(first)
        self.publisher.set_health(health_of(ready=True, stale=False))

    def record(self, *changes: Change) -> list[tuple[str, str]]:
        """Publish changes, and return the new entries as their kind and the member's number."""
        after = self.history.last
        self.publisher.publish(changes)
        entries, _ = self.history.read(None, after, 1000)
        return [(entry.kind, entry.member.removeprefix("member_").lstrip("0")) for entry in entries]


def run_in_loop(scenario: Callable[[], None]) -> None:
    """Run a function within a running event loop."""

    async def run() -> None:
        scenario()

    asyncio.run(run())


def changed(added: Sequence[int] = (), removed: Sequence[int] = ()) -> SetChanged:
    return SetChanged(WEB, members(*added), tuple(member(number).name for number in removed))


def test_the_first_read_of_the_table_is_not_recorded() -> None:
    def scenario() -> None:
        recorder = Recorder(put("web", *members(1, 2)))
        assert recorder.history.read(None, 0, 100) == ((), 0)
        assert recorder.history.changed_at((b"web", b"staging", *ZONE)) is None

    run_in_loop(scenario)


def test_each_change_is_recorded_with_its_kind() -> None:
    def scenario() -> None:
        recorder = Recorder(put("web", *members(1, 2)))
        starting = msgspec.structs.replace(member(2), status=Status.STARTING)
        weighed = msgspec.structs.replace(starting, weight=0.0)
        assert recorder.record(changed([3], [1])) == [("left", "1"), ("joined", "3")]
        assert recorder.record(SetChanged(WEB, (starting,), ())) == [("status", "2")]
        assert recorder.record(SetChanged(WEB, (weighed,), ())) == [("changed", "2")]
        assert recorder.record(SetChanged(WEB, (weighed,), ()), HostResolved("db", ("10.0.0.9",))) == []
        assert recorder.record(put("web", member(3), member(4))) == [("left", "2"), ("joined", "4")]
        assert recorder.record(put("db", member(1))) == [("service added", ""), ("joined", "1")]
        assert recorder.record(SetDropped(origin_of("db"))) == [("left", "1"), ("service gone", "")]
        assert recorder.record(SetDropped(origin_of("db")), changed([], [9])) == []
        assert recorder.record(SetUnread(origin_of("db"), put("db").name)) == [("service added", "")]

    run_in_loop(scenario)


def test_held_members_are_recorded_as_held_back_released_or_left() -> None:
    def scenario() -> None:
        recorder = Recorder(put("web", *members(1, 2, 3, 4, 5, 6)))
        held = MembersHeld(WEB, tuple(one.name for one in members(1, 2, 3)))
        assert recorder.record(held) == [("held", "1"), ("held", "2"), ("held", "3")]
        assert recorder.record(held) == []
        assert recorder.record(changed([1])) == [("back", "1")]
        replacement = member(7, host="10.0.0.2")  # another name, the same endpoint
        assert recorder.record(SetChanged(WEB, (replacement,), (member(2).name,))) == [
            ("left", "2"),
            ("back", "7"),
        ]
        assert recorder.record(changed([], [3])) == [("released", "3")]
        # A held member that the guard puts back has not joined, even if the whole service was removed.
        assert recorder.record(changed([3]), MembersHeld(WEB, (member(3).name,))) == [("held", "3")]
        assert recorder.record(put("db", member(1)), MembersHeld(origin_of("db"), (member(1).name,))) == [
            ("service added", ""),
            ("held", "1"),
        ]

    run_in_loop(scenario)


def test_members_that_the_guard_holds_and_releases_are_recorded() -> None:
    async def run() -> None:
        recorder = Recorder()
        config = load_config(flags={}, environment={}, file=None)
        guarded = GuardedPublisher(config, config.namespace, recorder.publisher, piece_seconds=math.inf)
        guarded.publish([put("web", *members(1, 2, 3, 4, 5, 6))])
        guarded.set_health(True, True)
        after = recorder.history.last
        guarded.publish([changed([], [1, 2, 3, 4, 5, 6])])
        guarded.publish([changed([7])])
        await guarded.release([WEB])
        guarded.close()
        kinds = [entry.kind for entry in recorder.history.read(None, after, 100)[0]]
        assert kinds == ["held"] * 6 + ["joined"] + ["released"] * 6

    asyncio.run(run())


def test_an_entry_has_all_fields_of_its_change() -> None:
    def scenario() -> None:
        recorder = Recorder(put("web"))
        recorder.record(changed([3]))
        entries, last = recorder.history.read(None, 0, 10)
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
        assert recorder.history.changed_at((b"web", b"staging", *ZONE)) == NOW
        recorder.now += 5
        recorder.record(changed([], [3]))
        recorder.now += 7
        web, other = (b"web", b"staging", *ZONE), (b"other", b"staging", *ZONE)
        assert list(recorder.history.departures(60, [other, web])) == [(web, WEB, member(3), 7.0)]
        assert list(recorder.history.departures(6, [web])) == []
        assert list(recorder.history.departures(60, [other])) == []

    run_in_loop(scenario)


def test_numbers_rise_even_if_the_clock_is_set_back() -> None:
    def scenario() -> None:
        recorder = Recorder(put("web"))
        recorder.record(changed([1, 2, 3]))
        recorder.now -= 3600
        recorder.record(changed([4]))
        numbers = [entry.number for entry in recorder.history.read(None, 0, 10)[0]]
        assert numbers == [int(NOW * 1e6) + step for step in range(4)]

    run_in_loop(scenario)


def test_entries_are_read_in_pages_and_by_service() -> None:
    def scenario() -> None:
        recorder = Recorder(put("web"), put("db"))
        for number in range(1, 6):
            recorder.record(changed([number]))
            recorder.record(SetChanged(origin_of("db"), members(number), ()))
        history = recorder.history
        everything, last = history.read(None, 0, 100)
        assert [entry.service for entry in everything] == ["web.staging", "db.staging"] * 5
        assert history.read(None, 0, 3) == (everything[-3:], last)
        first = everything[0].number
        assert history.read(None, first, 4) == (everything[1:5], everything[4].number)
        assert history.read(None, everything[4].number, 100) == (everything[5:], last)
        assert history.read(None, last, 100) == ((), last)
        assert history.read(lambda key, *_: key[0] == b"db", 0, 2)[0] == everything[7::2]
        assert history.read(lambda _key, origin, _member: origin == WEB, 0, 100)[0] == everything[::2]

    run_in_loop(scenario)


def test_the_oldest_entries_of_a_service_and_of_all_services_are_dropped() -> None:
    def scenario() -> None:
        names = [f"s{number}" for number in range(30)]
        recorder = Recorder(*map(put, names), max_per_service=10, max_entries=100)
        for number in range(1, 51):
            recorder.record(SetChanged(origin_of("s0"), members(number), ()))
        assert len(recorder.history.read(None, 0, 1000)[0]) == 10
        recorder.now += 1
        for name in names[1:]:
            for number in range(1, 11):
                recorder.record(SetChanged(origin_of(name), members(number), ()))
                assert len(recorder.history.read(None, 0, 1000)[0]) <= 100
        newest = recorder.history.read(None, 0, 1000)[0]
        assert [entry.service for entry in newest[-10:]] == ["s29.staging"] * 10
        assert newest[0].number > int((NOW + 1) * 1e6)
        assert [entry.number for entry in newest] == sorted(entry.number for entry in newest)
        assert recorder.history.changed_at((b"s0", b"staging", *ZONE)) == NOW + 49e-6

    run_in_loop(scenario)


def test_old_entries_are_dropped_one_at_a_time() -> None:
    def scenario() -> None:
        names = [f"s{number}" for number in range(200)]
        recorder = Recorder(*map(put, names), max_entries=1000)
        changes = [SetChanged(origin_of(names[at % 200]), members(at), ()) for at in range(1001)]
        recorder.publisher.publish(changes[:1000])
        with at_most_lines(200):
            recorder.publisher.publish(changes[1000:])
        entries = recorder.history.read(None, 0, 2000)[0]
        assert [entry.member for entry in entries] == [member(at).name for at in range(1, 1001)]

    run_in_loop(scenario)


def test_services_without_entries_that_are_not_in_the_table_are_dropped() -> None:
    def scenario() -> None:
        recorder = Recorder(max_entries=20)
        for number in range(100):
            recorder.record(put(f"s{number}"), SetDropped(origin_of(f"s{number}")))
        keys = [(b"s%d" % number, b"staging", *ZONE) for number in range(100)]
        assert sum(recorder.history.changed_at(key) is not None for key in keys) <= 21

    run_in_loop(scenario)


def test_an_internal_error_is_logged_and_the_change_is_applied() -> None:
    def broken_clock() -> float:
        raise ValueError

    def scenario() -> None:
        publisher = Publisher()
        publisher.add_listener(History(publisher, ZONE, clock=broken_clock))
        publisher.publish([put("web")])
        publisher.set_health(health_of(ready=True, stale=False))
        with capture_logs() as logs:
            publisher.publish([changed([1])])
        assert [entry["event"] for entry in logs] == ["history_update_failed"]
        assert publisher.table.services[(b"web", b"staging", *ZONE)].first.members

    run_in_loop(scenario)
