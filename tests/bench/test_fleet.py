"""The fleet benchmark: its models, the messages of its secondaries, and its run."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from tests.bench.fleet_messages import Observed, merge
from tests.bench.fleet_model import Point, fit
from tests.bench.fleet_report import report_model
from tests.bench.fleet_run import split
from tests.bench.fleet_secondaries import TransferError, encode_query, first_record, is_last, serial_of
from tests.bench.fleet_transfer import TWO_LEVELS, transfer_fleet
from tests.bench.fleet_zookeeper import ZOOKEEPER_CPU, busiest_second, is_linear
from tests.bench.processes import family
from tests.bench.report import Report
from tests.support.waiting import eventually

SMALL = (
    *("--only", "zookeeper", "--hosts", "12", "--rates", "5", "--seconds", "0.3"),
    *("--voters", "1", "--services", "3"),
)
NAMES = ("a", "b", "c")


def point(hosts: int, rate: float, *, rest: float = 0.0003, change: float = 0.0001) -> Point:
    """A second of measurement, with a CPU time and delays in proportion to the number of hosts."""
    changes = round(rate)
    cpu = {"leader": hosts * (rest + change * changes), "hosts": 9.0}
    delays = [hosts * 1e-4] * (hosts * changes)
    return Point("somewhere", hosts, rate, 1.0, cpu, changes, hosts * changes, delays=delays)


# -- the model ---------------------------------------------------------------------------------------------


def test_a_model_has_the_coefficients_of_its_points() -> None:
    causes = [dict(zip(NAMES, row, strict=True)) for row in ((1, 0, 2), (1, 5, 1), (1, 9, 30), (1, 2, 2))]
    measured = [3 + 0.5 * each["b"] + 0.25 * each["c"] for each in causes]
    model = fit(causes, measured)
    assert model.coefficients == pytest.approx({"a": 3, "b": 0.5, "c": 0.25})
    assert model.predict({"a": 1, "b": 100, "c": 0}) == pytest.approx(53)
    assert model.residual({"a": 1, "b": 100, "c": 0}, 50) == pytest.approx(0.06)


def test_causes_that_the_points_cannot_tell_apart_are_one() -> None:
    model = fit([{"a": n, "b": 2.0 * n} for n in (1, 2, 3)], [4, 8, 12])
    assert min(model.coefficients.values()) == 0
    assert model.predict({"a": 10, "b": 20}) == pytest.approx(40)


def test_no_coefficient_is_negative() -> None:
    model = fit([{"a": 1, "b": n} for n in (1, 2, 3)], [9, 8, 7])
    assert min(model.coefficients.values()) >= 0
    assert fit([{"a": 1.0}], [3]).coefficients == {"a": 3}
    with pytest.raises(ValueError, match="do not determine"):
        fit([{"a": 0.0}], [3])


def test_the_held_out_size_is_compared_with_the_model_and_does_not_change_it() -> None:
    report = Report()
    points = [point(hosts, rate) for hosts in (300, 100) for rate in (0.0, 1.0, 10.0)]
    held_out = [point(200, rate, change=0.0002) for rate in (0.0, 10.0)]
    report_model(report, [*points, *held_out], 200, ZOOKEEPER_CPU, [10.0])
    found = {(result.section.rpartition(", ")[2], result.name): result for result in report.results}
    at_rest = found["model of hosts somewhere: CPU of all servers", "for each host and second"]
    assert at_rest.measured == pytest.approx(0.3)
    assert "held out, 200 hosts: -43% to -0% of 2" in at_rest.yardstick.replace("+0%", "-0%")
    assert found["extrapolated", "CPU of all servers, 10 changes/s"].measured == pytest.approx(13)
    assert found["extrapolated", "from write to read, p99"].measured == pytest.approx(1000)


def test_points_at_which_requests_were_shared_are_not_linear() -> None:
    assert is_linear(point(100, 0.0))
    assert is_linear(point(100, 5.0))
    shared = point(100, 5.0)
    assert not is_linear(Point(**{**vars(shared), "requests": 300}))
    assert not is_linear(Point(**{**vars(shared), "missing": 1}))


# -- measurements of the simulated hosts -------------------------------------------------------------------


def test_the_measurements_of_processes_are_added() -> None:
    parts = (Observed(hosts=2, longest_heartbeat=0.5), Observed(hosts=3, longest_heartbeat=0.25))
    for part, members in zip(parts, ("ab", "b"), strict=True):
        for member in members:
            part.add_read(member, 7.0)
    whole = merge(parts)
    assert (whole.hosts, whole.reads, whole.longest_heartbeat) == (5, 3, 0.5)
    assert {member: list(times) for member, times in whole.seen.items()} == {"a": [7.0], "b": [7.0, 7.0]}


@pytest.mark.parametrize(("times", "most"), [([], 0), ([5], 1), ([0, 0.9, 1.0, 1.8, 3], 3)])
def test_the_busiest_second_may_begin_at_any_time(times: Sequence[float], most: int) -> None:
    assert busiest_second(times) == most


def test_hosts_are_split_evenly() -> None:
    assert split(11, 3) == [4, 4, 3]


# -- the messages of the simulated secondaries -------------------------------------------------------------

APEX = b"\x09discovery\0"
SOA = "discovery. 5 IN SOA . . {} 60 10 600 5"


def response(*records: str) -> bytes:
    """A response to an AXFR query for the zone with these records, in this order."""
    message = dns.message.make_response(dns.message.make_query("discovery.", "AXFR"))
    for record in records:
        name, ttl, rdclass, rdtype, *rdata = record.split()
        found = dns.rrset.from_text(name, int(ttl), rdclass, rdtype, " ".join(rdata))
        message.answer.append(found)
    return message.to_wire()


def test_queries_for_transfers_are_valid() -> None:
    full = dns.message.from_wire(encode_query(APEX, dns.rdatatype.AXFR))
    changes = dns.message.from_wire(encode_query(APEX, dns.rdatatype.IXFR, 4_000_000_000))
    assert [str(query.question[0]) for query in (full, changes)] == [
        "discovery. IN AXFR",
        "discovery. IN IXFR",
    ]
    assert not full.authority
    assert changes.authority[0][0].serial == 4_000_000_000


def test_a_transfer_ends_with_its_first_record() -> None:
    soa, member = SOA.format(7), "web.staging.discovery. 5 IN A 10.200.0.1"
    assert serial_of(first_record(response(soa, member), len(APEX))) == 7
    assert not is_last([response(soa, member)], len(APEX))
    assert is_last([response(soa, member), response(member, soa)], len(APEX))
    assert is_last([response(soa, SOA.format(6), soa, member, soa)], len(APEX))
    assert is_last([response(soa)], len(APEX))  # up to date


def test_an_error_is_no_transfer() -> None:
    refused = dns.message.make_response(dns.message.make_query("discovery.", "AXFR"))
    refused.set_rcode(dns.rcode.REFUSED)
    for message in (refused.to_wire(), response(), response("discovery. 5 IN NS ns.discovery.")):
        with pytest.raises(TransferError):
            first_record(message, len(APEX))


# -- the run -----------------------------------------------------------------------------------------------


@pytest.mark.processes
@pytest.mark.zookeeper
def test_all_hosts_read_all_changes_and_return_after_a_restart() -> None:
    command = [sys.executable, "-m", "tests.bench.fleet", *SMALL, "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    results = json.loads(ran.stdout)
    delays = [result["details"] for result in results if "p50" in result["section"] and result["details"]]
    assert sorted(each["delays"] for each in delays) == [8, 8, 16, 16, 24, 24]
    assert [each["missing"] for each in delays] == [0] * 6
    returned = [result["details"] for result in results if "all are back" in result["name"]]
    assert returned == [{"returned": 12}] * 3
    assert all(result["measured"] >= 0 for result in results if "CPU" in result["section"])


@pytest.mark.processes
@pytest.mark.zookeeper
def test_all_secondaries_read_all_changes() -> None:
    with transfer_fleet(services=3, members=2, processes=2, show_step=lambda _: None) as fleet:
        at_rest, changed = fleet.measure(TWO_LEVELS, 10, [5.0], 1.0)
    assert set(changed.cpu) == {"primary", "secondaries", "hosts"}
    assert (at_rest.requests, changed.changes, changed.missing, len(changed.delays)) == (0, 5, 0, 50)
    assert min(changed.delays) > 0
    assert 10 <= changed.requests <= 50
    assert changed.notifies >= 10


@pytest.mark.processes
@pytest.mark.zookeeper
def test_an_interrupt_ends_all_processes() -> None:
    command = [sys.executable, "-m", "tests.bench.fleet", *SMALL]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if re.search("at rest", line):
                break
        processes = family(running.pid)
        assert len(processes) > 5
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
        eventually(lambda: not [pid for pid in processes if Path(f"/proc/{pid}").exists()])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--hosts", "1"], "--hosts must be 10 to"),
        (["--rates", "5,0"], "a rate must be above 0"),
        (["--rates", "fast"], "invalid"),
        (["--seconds", "nan"], "--seconds must be 0.1 to"),
        (["--members", "0"], "must be at least 1"),
    ],
)
def test_a_wrong_argument_is_a_usage_error(arguments: list[str], error: str) -> None:
    command = [sys.executable, "-m", "tests.bench.fleet", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert error in ran.stderr
