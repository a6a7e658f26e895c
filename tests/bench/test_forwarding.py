"""The forwarding benchmark: its questions, its calculations, and the program that forges answers."""

import os
import sys
from pathlib import Path

import dns.message
import dns.query
import pytest

from tests.bench.dead_upstream import DEAD_RATE, outside_names, waiting_queries
from tests.bench.forged_answers import CORRECT, Forger, Outcome, forwarding_zkdns, query_all
from tests.bench.forwarding import FRESH_INTERVAL, mix, report_added_latency, report_p99
from tests.bench.load import LoadResult
from tests.bench.processes import find_program
from tests.bench.queries import nonexistent_names, service_questions
from tests.bench.report import Report
from tests.bench.zone import make_services, to_zone_file
from tests.support.waiting import eventually

CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
WITHOUT = [name for name in ("cc", "taskset") if find_program(name) is None]
FEW = 40

needs_compiler = pytest.mark.skipif(bool(WITHOUT) or not CORES, reason=f"needs Linux, and {WITHOUT}")


def load_result(median: float = 0.0, p99: float = 0.0, rcodes: dict[str, int] | None = None) -> LoadResult:
    return LoadResult(1.0, 100, rcodes=rcodes or {}, median=median, p99=p99)


# -- questions ---------------------------------------------------------------------------------------------


def test_every_tenth_question_is_fresh_and_each_fresh_one_occurs_once() -> None:
    cached = service_questions(make_services(7, 1), ("A",))
    fresh = nonexistent_names(11, types=("A",))
    mixed = mix(cached, fresh, 105)
    assert len(mixed) == 105
    assert [question for question in mixed if question not in cached] == fresh
    assert [number for number, question in enumerate(mixed) if question in fresh] == list(
        range(0, 105, FRESH_INTERVAL)
    )
    assert set(cached) < set(mixed)


def test_nonexistent_names_use_the_given_types_in_turn() -> None:
    assert {qtype for _, qtype in nonexistent_names(10, types=("A",))} == {"A"}
    assert [qtype for _, qtype in nonexistent_names(4)] == ["A", "SRV", "A", "SRV"]


def test_outside_names_differ_for_each_number() -> None:
    first, second = ({name for name, _ in outside_names(1000, number)} for number in (1, 2))
    assert len(first) == len(second) == 1000
    assert not first & second


def test_the_zone_file_has_the_given_ttl() -> None:
    assert "\n$TTL 3600\n" in to_zone_file(make_services(1, 1), ttl=3600)
    assert "\n$TTL 5\n" in to_zone_file(make_services(1, 1))


# -- calculations ------------------------------------------------------------------------------------------


def test_added_latency_is_the_median_of_the_differences_within_each_round() -> None:
    report = Report()
    own, direct = (
        [load_result(median) for median in medians] for medians in ((200, 900, 150), (50, 500, 60))
    )
    for name in ("zkdns", "unbound"):
        report_added_latency(report, name, own, direct)
    added, other = report.results
    assert added.measured == pytest.approx(0.15)
    assert (added.limit, added.unit) == (0.3, "ms")
    assert other.limit is None


def test_the_p99_ratio_is_to_the_best_other_server() -> None:
    report = Report()
    p99s = {"unbound": (200, 400), "dnsmasq": (300, 600), "zkdns": (240, 480)}
    results = {name: [load_result(p99=value) for value in values] for name, values in p99s.items()}
    report_p99(report, "uncached", results)
    *each, ratio = report.results
    assert [result.measured for result in each] == [300, 450, 360]
    assert ratio.measured == pytest.approx(1.2)
    assert ratio.is_within_limit is False


def test_waiting_queries_are_the_rate_times_the_median_wait() -> None:
    assert waiting_queries(load_result(median=3.9e6, rcodes={"2": 100})) == pytest.approx(3.9 * DEAD_RATE)


@pytest.mark.parametrize(
    ("median", "rcodes", "wrong"),
    [(3.9e6, {"2": 99, "NOERROR": 1}, "NOERROR"), (3.9e6, {}, "{}"), (0.5e6, {"2": 100}, "not 2000")],
)
def test_an_upstream_that_is_not_dead_fails_the_benchmark(
    median: float, rcodes: dict[str, int], wrong: str
) -> None:
    with pytest.raises(RuntimeError, match=wrong):
        waiting_queries(load_result(median=median, rcodes=rcodes))


# -- forged answers ----------------------------------------------------------------------------------------


@needs_compiler
def test_forge_sends_forged_answers_and_then_the_correct_one(tmp_path: Path) -> None:
    query = dns.message.make_query("x.elsewhere.example", "A", use_edns=0)
    with Forger(tmp_path, CORES[-1], FEW).running() as forger:
        outcome = query_all(forger.port, ["x.elsewhere.example"])
        over_tcp = dns.query.tcp(query, "127.0.0.1", port=forger.port, timeout=5)
        other = dns.query.udp(
            dns.message.make_query("x.elsewhere.example", "TXT"), "127.0.0.1", port=forger.port, timeout=5
        )
        counts = eventually(lambda: forger.counts() if forger.counts()[1] else None)
    assert outcome.correct == 1  # the client checks id and port, so it waits for the correct answer
    assert [str(record) for record in over_tcp.answer[0]] == [CORRECT]
    assert not other.answer
    assert counts == (FEW, 1)


@needs_compiler
@pytest.mark.processes
def test_the_forwarder_accepts_no_forged_answer(tmp_path: Path) -> None:
    names = [f"x{number}.elsewhere.example" for number in range(3)]
    with (
        Forger(tmp_path, CORES[-1], FEW).running() as forger,
        forwarding_zkdns(forger.port, tmp_path, CORES[0]) as zkdns,
    ):
        assert [query_all(zkdns.port, names) for _ in range(2)] == 2 * [Outcome(3, 0, 0)]
        # The counts are printed after the answer, and are larger if a query was repeated under load.
        eventually(lambda: forger.counts()[0] >= 3 * FEW and forger.counts()[1] >= 3)
