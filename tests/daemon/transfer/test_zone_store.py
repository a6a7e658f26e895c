"""Zones on disk: the first version after a restart has the exact difference to the one that was stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.ipc.feed_helpers import until
from tests.dns.helpers import many
from tests.dns.transfer.helpers import ZONE, Versions
from zkdns.daemon.transfer.zone_store import ZoneStore
from zkdns.dns.transfer.contents import SoaTemplate, split_records

WEB, DB, OTHER = ["10.0.0.1:80", "10.0.0.2:80"], ["10.1.0.1:5432"], ["10.2.0.1:80"]
SOA = SoaTemplate(b"before", b"after")


Start = Callable[..., "Process"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts processes with one directory, each when the one before has ended, except in a handover."""
    processes: list[Process] = []

    def start(*, is_handover: bool = False, **options: Any) -> Process:
        if processes and not is_handover:
            processes[-1].stop()
        processes.append(Process(options.pop("directory", tmp_path), **options))
        return processes[-1]

    yield start
    for process in processes:
        process.stop()
        process.runner.close()


class Process:
    """A transfer process as far as versions are concerned, with its store."""

    def __init__(self, directory: Path, *, ttl: int = 5, soa: SoaTemplate = SOA) -> None:
        self.versions = Versions(ttl=ttl)
        self.zone = self.versions.zone
        self.store = ZoneStore(directory, ZONE, soa, retry_seconds=0.0)
        self.runner = asyncio.Runner()
        self.stored = self.store.load()
        if self.stored is not None:
            self.versions.restore(self.stored)

    def run(self, *versions: tuple[int, dict[str, Sequence[str]]]) -> None:
        """Publish versions, and store each."""

        async def main() -> None:
            running = asyncio.create_task(self.store.run())
            for serial, services in versions:
                assert self.versions.publish(serial, **services)
                self.store.note(self.zone, self.versions.parts)
            await self.store.wait_until_written()
            running.cancel()

        self.runner.run(main())

    def wait_until_stored(self, serial: int) -> None:
        """Wait until the file has this serial."""

        async def main() -> None:
            running = asyncio.create_task(self.store.run())
            await until(lambda: (stored := self.store.load()) is not None and stored.serial == serial)
            running.cancel()

        self.runner.run(main())

    def stop(self) -> None:
        self.runner.run(self.store.stop())

    def records(self) -> set[bytes]:
        version = self.zone.current()
        assert version is not None
        return set(split_records(version.blocks))

    def led_to_by(self, serial: int, records: set[bytes]) -> set[bytes]:
        """The records of a secondary that applies the differences from a version."""
        differences = self.zone.differences_since(serial)
        assert differences is not None
        for difference in differences:
            removed, added = (set(split_records(part)) for part in (difference.removed, difference.added))
            assert removed <= records
            assert not added & records
            records = records - removed | added
        return records


def test_secondaries_of_every_stored_version_get_differences(start: Start) -> None:
    old = start()
    contents = {}
    for serial in range(1, 6):
        old.run((serial, {"web": WEB, "db": DB, "job": [f"10.0.{serial}.1:80"], "base": many(9)}))
        contents[serial] = old.records()
    new = start()
    assert new.zone.current() is None  # nothing is served before the present table is known
    new.run((9, {"web": WEB, "db": [], "job": OTHER, "base": many(9)}))
    assert all(new.led_to_by(serial, records) == new.records() for serial, records in contents.items())
    newer = start()
    newer.run((9, {"web": WEB, "db": [], "job": OTHER, "base": many(9)}))
    assert newer.led_to_by(5, contents[5]) == newer.records() == new.records()


def test_an_unchanged_zone_continues_its_journal(start: Start) -> None:
    services: dict[str, Sequence[str]] = {"web": WEB, "base": many(300)}
    old = start()
    old.run((1, {"base": many(300)}), (2, services))
    before = old.records()
    new = start()
    new.run((2, services))
    assert new.records() == before
    assert new.zone.journal_length == 1
    assert new.zone.size == old.zone.size


def test_services_that_have_gone_meanwhile_are_removed(start: Start) -> None:
    old = start()
    old.run((1, {"web": WEB, "db": DB, "base": many(9)}))
    before = old.records()
    new = start()
    new.run((2, {"base": many(9)}))
    assert new.led_to_by(1, before) == new.records()
    assert not any(b"db" in record for record in new.records())


def test_other_records_with_the_stored_serial_get_no_difference(start: Start) -> None:
    """The TTL was changed while the server was stopped. The serial does not show it."""
    start().run((1, {"base": many(9)}), (2, {"web": WEB}))
    new = start(ttl=9)
    new.run((2, {"web": WEB, "base": many(9)}))
    assert new.zone.is_ambiguous
    newest = start(ttl=9)
    newest.run((2, {"web": WEB, "base": many(9)}), (3, {"web": DB}))
    assert newest.zone.differences_since(1) is newest.zone.differences_since(2) is None
    newest.run((4, {"web": WEB}))
    assert newest.zone.differences_since(3) is not None
    last = start(ttl=9)
    last.run((5, {"web": DB, "base": many(9)}))
    assert last.zone.differences_since(2) is None
    assert last.zone.differences_since(3) is not None


def test_a_changed_ttl_is_part_of_the_first_difference(start: Start) -> None:
    old = start()
    old.run((1, {"web": WEB, "base": many(9)}))
    new = start(ttl=9)
    new.versions.publish(2, web=WEB, base=many(9))
    difference = new.zone.latest_difference
    assert difference is not None
    changed = {*split_records(difference.removed), *split_records(difference.added)}
    assert old.records() - changed == new.records() - changed


def test_each_damaged_file_is_an_earlier_version_or_none(start: Start) -> None:
    """A secondary that has a version after the damage gets the whole zone."""
    old = start()
    contents = {}
    for serial in range(1, 5):
        old.run((serial, {"web": [f"10.0.{serial}.1:80"], "base": many(9)}))
        contents[serial] = old.records()
    whole = old.store.path.read_bytes()
    found = set()
    for cut in range(0, len(whole), 97):
        old.store.path.write_bytes(whole[:cut] + b"\xff" * 4 + whole[cut + 4 :])
        new = start()
        new.versions.publish(9, web=OTHER, base=many(9))
        known = {serial for serial in contents if new.zone.differences_since(serial) is not None}
        assert all(new.led_to_by(serial, contents[serial]) == new.records() for serial in known)
        found.add(len(known))
    assert found == {0, 1, 2, 3}


def test_a_file_of_another_soa_record_is_not_used(start: Start) -> None:
    start().run((1, {"web": WEB}))
    assert start(soa=SoaTemplate(b"other", b"after")).stored is None
    assert start().stored is not None


def test_the_file_is_written_again_when_the_differences_are_long(start: Start) -> None:
    process = start()
    process.run((1, {"web": many(2000)}))
    size = process.store.path.stat().st_size
    for serial in range(2, 8):
        process.run((serial, {"web": many(2000 - serial % 2 * 1500)}))
    assert process.store.path.stat().st_size < 5 * size
    new = start()
    new.run((8, {"web": many(500)}))
    assert new.led_to_by(7, process.records()) == new.records()


def test_a_failed_write_is_repeated_as_a_whole(start: Start, tmp_path: Path) -> None:
    directory = tmp_path / "file"
    directory.write_text("in the way")
    process = start(directory=directory)
    process.run((1, {"web": WEB}))
    directory.unlink()
    process.run((2, {"web": WEB[:1]}))
    stored = process.store.load()
    assert stored is not None
    assert stored.serial == 2


def test_a_stopped_store_writes_no_more(start: Start) -> None:
    process = start()
    process.run((1, {"web": WEB}))
    process.stop()
    process.run((2, {"web": WEB[:1]}))
    stored = process.store.load()
    assert stored is not None
    assert (stored.serial, stored.following) == (1, [])


def test_in_a_handover_only_one_process_writes(start: Start) -> None:
    """The next one writes its newest version when the other one has ended, and nothing replaces that."""
    old = start()
    old.run((1, {"web": WEB, "base": many(9)}))
    new = start(is_handover=True)
    new.run((3, {"web": DB, "base": many(9)}), (4, {"web": OTHER}))
    old.run((2, {"web": WEB[:1]}))
    stored = new.store.load()
    assert stored is not None
    assert (stored.serial, [each.after for each in stored.following]) == (1, [2])
    old.stop()
    new.wait_until_stored(4)
    old.run((5, {"web": WEB}))
    newest = start()
    newest.run((6, {"web": WEB, "base": many(9)}))
    assert newest.led_to_by(4, new.records()) == newest.records()
    assert newest.zone.differences_since(1) is not None
