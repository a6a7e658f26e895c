"""Forwarding's benchmark: what it asks, what it makes of what it measured, and that its forger forges."""

import os
import sys
from pathlib import Path

import dns.message
import dns.query
import pytest

from tests.bench.dead_upstream import LATE, names_elsewhere, waiting_of
from tests.bench.forging import RIGHT, Forger, Outcome, ask_all, forwarding_to
from tests.bench.forwarding import FRESH_EACH, mix, report_added, report_slowest
from tests.bench.load import Asked
from tests.bench.processes import find_program
from tests.bench.queries import names_of_nobody, ordinary
from tests.bench.report import Report
from tests.bench.zone import make_services, to_zone_file
from tests.support.waiting import eventually

CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
WITHOUT = [name for name in ("cc", "taskset") if find_program(name) is None]
FEW = 40

needs_compiler = pytest.mark.skipif(bool(WITHOUT) or not CORES, reason=f"needs Linux, and {WITHOUT}")


def asked(median: float = 0.0, p99: float = 0.0, rcodes: dict[str, int] | None = None) -> Asked:
    return Asked(1.0, 100, rcodes=rcodes or {}, median=median, p99=p99)


# -- what is asked -----------------------------------------------------------------------------------------


def test_one_question_of_ten_is_fresh_and_none_of_these_comes_twice() -> None:
    known = ordinary(make_services(7, 1), ("A",))
    fresh = names_of_nobody(11, types=("A",))
    mixed = mix(known, fresh, 105)
    assert len(mixed) == 105
    assert [question for question in mixed if question not in known] == fresh
    assert [number for number, question in enumerate(mixed) if question in fresh] == list(
        range(0, 105, FRESH_EACH)
    )
    assert set(known) < set(mixed)


def test_fresh_names_are_asked_for_by_the_types_that_are_wished_for() -> None:
    assert {qtype for _, qtype in names_of_nobody(10, types=("A",))} == {"A"}
    assert [qtype for _, qtype in names_of_nobody(4)] == ["A", "SRV", "A", "SRV"]


def test_names_elsewhere_are_others_with_each_number() -> None:
    first, second = ({name for name, _ in names_elsewhere(1000, number)} for number in (1, 2))
    assert len(first) == len(second) == 1000
    assert not first & second


def test_the_upstreams_records_last_as_long_as_it_is_told() -> None:
    assert "\n$TTL 3600\n" in to_zone_file(make_services(1, 1), ttl=3600)
    assert "\n$TTL 5\n" in to_zone_file(make_services(1, 1))


# -- what is made of it ------------------------------------------------------------------------------------


def test_what_is_added_is_taken_within_a_round_before_its_median_is() -> None:
    report = Report()
    own, direct = ([asked(median) for median in medians] for medians in ((200, 900, 150), (50, 500, 60)))
    for name in ("zkdns", "unbound"):
        report_added(report, name, own, direct)
    added, theirs = report.figures
    assert added.measured == pytest.approx(0.15)
    assert (added.bound, added.unit) == (0.3, "ms")
    assert theirs.bound is None


def test_the_slowest_are_compared_with_those_of_the_better_one() -> None:
    report = Report()
    slowest = {"unbound": (200, 400), "dnsmasq": (300, 600), "zkdns": (240, 480)}
    told = {name: [asked(p99=value) for value in values] for name, values in slowest.items()}
    report_slowest(report, "uncached", told)
    *each, ratio = report.figures
    assert [figure.measured for figure in each] == [300, 450, 360]
    assert ratio.measured == pytest.approx(1.2)
    assert ratio.is_reached is False


def test_who_waits_is_counted_by_how_long_each_did() -> None:
    assert waiting_of(asked(median=3.9e6, rcodes={"2": 100})) == pytest.approx(3.9 * LATE)


@pytest.mark.parametrize(
    ("median", "rcodes", "wrong"),
    [(3.9e6, {"2": 99, "NOERROR": 1}, "NOERROR"), (3.9e6, {}, "{}"), (0.5e6, {"2": 100}, "not 2000")],
)
def test_an_upstream_that_is_not_dead_makes_no_figure(
    median: float, rcodes: dict[str, int], wrong: str
) -> None:
    with pytest.raises(RuntimeError, match=wrong):
        waiting_of(asked(median=median, rcodes=rcodes))


# -- the forger --------------------------------------------------------------------------------------------


@needs_compiler
def test_the_forger_forges_and_says_what_is_right_at_last(tmp_path: Path) -> None:
    query = dns.message.make_query("x.elsewhere.example", "A", use_edns=0)
    with Forger(tmp_path, CORES[-1], FEW).running() as forger:
        # Who takes every id and every port gets what is forged; over TCP nobody forges.
        outcome = ask_all(forger.port, ["x.elsewhere.example"])
        over_tcp = dns.query.tcp(query, "127.0.0.1", port=forger.port, timeout=5)
        other = dns.query.udp(
            dns.message.make_query("x.elsewhere.example", "TXT"), "127.0.0.1", port=forger.port, timeout=5
        )
        counts = eventually(lambda: forger.counts() if forger.counts()[1] else None)
    assert outcome.right == 1  # a client that looks at the id waits for the right one
    assert [str(record) for record in over_tcp.answer[0]] == [RIGHT]
    assert not other.answer
    assert counts == (FEW, 1)


@needs_compiler
@pytest.mark.processes
def test_nothing_that_is_forged_is_accepted(tmp_path: Path) -> None:
    names = [f"x{number}.elsewhere.example" for number in range(3)]
    with (
        Forger(tmp_path, CORES[-1], FEW).running() as forger,
        forwarding_to(forger.port, tmp_path, CORES[0]) as zkdns,
    ):
        assert [ask_all(zkdns.port, names) for _ in range(2)] == 2 * [Outcome(3, 0, 0)]
        # It counts when it has answered, and more where it was asked again since it had its core too late.
        eventually(lambda: forger.counts()[0] >= 3 * FEW and forger.counts()[1] >= 3)
