"""The SOA serial as a function of the versions of the sources."""

import random

import pytest

from zkdns.daemon.ipc.zone_serial import (
    DETOUR_SECONDS,
    MAX_LEAD,
    ZoneSerial,
    version_of_zxid,
)
from zkdns.dns.serial import is_newer

TREE, OTHER = "/discovery/{environment}/{service}", "/other/{service}"


def zxid(epoch: int, counter: int) -> int:
    return (epoch << 32) + counter


def serial_at(*versions: int) -> ZoneSerial:
    """Sources with these versions."""
    made = ZoneSerial(map(str, range(len(versions))))
    for source, version in enumerate(versions):
        made.set_version(str(source), version)
    return made


@pytest.mark.parametrize(
    ("transaction", "version"),
    [
        (0, 0),
        (zxid(0, 1), 1),
        (zxid(1, 5), 2**28 + 5),
        (zxid(15, 1), 15 * 2**28 + 1),
        (zxid(16, 1), 1),
        (zxid(17, 0), 2**28),
        (zxid(2, 2**28), 3 * 2**28),
    ],
)
def test_an_election_counts_as_many_transactions(transaction: int, version: int) -> None:
    assert version_of_zxid(transaction) == version


@pytest.mark.parametrize(
    ("serial", "other", "newer"),
    [
        (1, 0, True),
        (0, 1, False),
        (7, 7, False),
        (0, 2**32 - 1, True),
        (2**31 - 1, 0, True),
        (2**31, 0, False),  # undefined in RFC 1982
        (0, 2**31, False),
        (2**31 + 1, 0, False),
    ],
)
def test_dns_15_serials_are_compared_in_a_circle(serial: int, other: int, newer: bool) -> None:
    assert is_newer(serial, other) is newer


def test_the_serial_is_the_sum_of_the_versions_once_all_are_known() -> None:
    made = ZoneSerial([TREE, OTHER])
    assert made.following(0, 0.0, is_changed=False) == 0
    assert made.following(0, 0.0, is_changed=True) == 1
    made.set_version(TREE, 2**31 + 5)
    assert made.following(1, 0.0, is_changed=True) == 2
    made.set_version(OTHER, 2)
    assert made.following(2, 0.0, is_changed=False) == 2**31 + 7  # nothing has depended on the former one


def test_a_restored_serial_is_followed_by_a_newer_one() -> None:
    made = serial_at(90)
    made.is_restored = True
    assert made.following(100, 0.0, is_changed=False) == 100
    assert made.following(100, 0.0, is_changed=True) == 101
    made.set_version("0", 110)
    assert made.following(101, 0.0, is_changed=True) == 110


def test_dns_15_changes_without_a_version_raise_the_serial_until_the_sum_has_passed_it() -> None:
    made = serial_at(100)
    serial = made.following(0, 0.0, is_changed=True)
    for counted in range(101, 105):
        serial = made.following(serial, 0.0, is_changed=True)
        assert serial == counted
    made.set_version("0", 103)
    serial = made.following(serial, 0.0, is_changed=True)
    assert serial == 105
    made.set_version("0", 106)
    assert made.following(serial, 0.0, is_changed=True) == 106


@pytest.mark.parametrize("behind", [MAX_LEAD, 2**30, 2**31 - 1, 2**31])
def test_dns_15_a_sum_that_has_moved_far_is_reached_by_a_detour(behind: int) -> None:
    last = 5
    wanted = (last - behind) % 2**32
    made = serial_at(wanted)
    made.is_restored = True
    turn = made.following(last, 10.0, is_changed=False)
    assert is_newer(turn, last)
    assert made.detour_until == 10.0 + DETOUR_SECONDS
    held = made.following(turn, 11.0, is_changed=True)
    assert held == (turn + 1) % 2**32
    assert made.following(held, 12.0, is_changed=False) == held
    end = made.following(held, 10.0 + DETOUR_SECONDS, is_changed=False)
    assert end == wanted
    assert is_newer(end, held)


def test_dns_15_random_transactions_and_elections_raise_the_serial() -> None:
    """Up to seven elections between two changes, with fewer than 2^28 transactions each: the sum suffices."""
    dice = random.Random(15)
    made = ZoneSerial([TREE])
    epoch, counter, serial = dice.randrange(2**31), 1, 0
    for number in range(20_000):
        if elections := dice.choice((0, 0, 0, 1, 7)):
            epoch, counter = epoch + elections, 0
        counter = min(counter + dice.choice((1, 2, 1000, 2**20)), 2**28 - 1 - dice.randrange(1000))
        if number and not is_newer(version_of_zxid(zxid(epoch, counter)), serial):
            epoch, counter = epoch + 1, 1  # the counter has reached its limit
        made.set_version(TREE, version_of_zxid(zxid(epoch, counter)))
        following = made.following(serial, 0.0, is_changed=True)
        assert following == version_of_zxid(zxid(epoch, counter))
        assert not number or is_newer(following, serial)
        serial = following


class TwoServers:
    """Two servers that publish the same contents at other times, restart, and have changes of their own."""

    def __init__(self, dice: random.Random) -> None:
        self.serials = [0, 0]
        self.now = 0.0
        self._dice = dice
        self._servers = [ZoneSerial([TREE]), ZoneSerial([TREE])]
        self._epoch, self._counter = dice.randrange(64), 1

    @property
    def version(self) -> int:
        return version_of_zxid(zxid(self._epoch, self._counter))

    def change(self) -> None:
        """Change the contents."""
        self.now += self._dice.random() * 60
        if self._dice.random() < 0.05:  # an election after any number of transactions, or another ensemble
            self._epoch = (self._epoch + self._dice.randrange(1, 20)) % 2**31
            self._counter = self._dice.randrange(2**31)
        self.advance(self._dice.choice((1, 5, 100, 10_000)))

    def advance(self, transactions: int) -> None:
        self._counter += transactions

    def publish(self, number: int) -> None:
        self._servers[number].set_version(TREE, self.version)
        self.follow(number, is_changed=True)

    def restart(self, number: int) -> None:
        self._servers[number] = ZoneSerial([TREE])
        self._servers[number].is_restored = bool(self.serials[number])

    def follow(self, number: int, *, is_changed: bool) -> None:
        last = self.serials[number]
        serial = self._servers[number].following(last, self.now, is_changed=is_changed)
        assert is_newer(serial, last) or not last or (serial == last and not is_changed)
        self.serials[number] = serial


@pytest.mark.parametrize("seed", range(20))
def test_dns_15_whatever_happens_servers_agree_after_a_detour(seed: int) -> None:
    dice = random.Random(seed)
    servers = TwoServers(dice)
    for step in range(500):
        servers.change()
        for number in (0, 1):
            if not step or dice.random() < 0.7:
                servers.publish(number)
            if dice.random() < 0.01:
                servers.follow(number, is_changed=True)
            if dice.random() < 0.05:
                servers.restart(number)
    for _ in range(3):
        servers.advance(1000)
        for number in (0, 1):
            servers.publish(number)
        servers.now += DETOUR_SECONDS
    assert servers.serials == [servers.version] * 2
