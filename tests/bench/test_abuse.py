"""The abuse benchmark: its queries, the client that reads nothing, its calculations, and its run."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import dns.edns
import dns.message
import dns.zone
import pytest

from tests.bench.abuse import CLIENT_TIMEOUT, Outcome, Phase, report_kind, run
from tests.bench.abuse_kinds import KINDS, Traffic
from tests.bench.abuse_servers import endpoints_in_static_file, endpoints_in_zone_file
from tests.bench.hostile_queries import absent_endpoints, absent_labels, polite_questions, with_options
from tests.bench.load import Load, LoadResult
from tests.bench.measurement import Bench
from tests.bench.peers import Knot
from tests.bench.processes import Memory, choose_cores, find_program
from tests.bench.queries import encode, service_questions, write_messages
from tests.bench.report import Report
from tests.bench.unread_responses import unread_responses
from tests.bench.zone import make_services, to_zone_file
from tests.support.waiting import eventually
from zkdns.namespace import parse_namespace
from zkdns.serverset.static_file import parse_static

CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
WITHOUT = [name for name in ("cc", "taskset") if find_program(name) is None]
NAMESPACE = parse_namespace("/discovery/{environment}/{service}", (b"discovery",))
QUERY = encode(("web.staging.discovery", "A"), edns=True)

needs_two_cores = pytest.mark.skipif(
    bool(WITHOUT) or len(CORES) < 2, reason=f"needs Linux with two cores, and {WITHOUT}"
)


# -- queries and services ----------------------------------------------------------------------------------


def test_hostile_names_are_all_different_and_below_the_service() -> None:
    for questions in (
        absent_endpoints("web.staging.discovery", 100),
        absent_labels("web.staging.discovery", 100),
    ):
        assert len({name for name, _ in questions}) == 100
        assert all(name.endswith(".web.staging.discovery") for name, _ in questions)


def test_queries_have_new_cookies_and_client_subnets_and_padding() -> None:
    queries = with_options(service_questions(make_services(3, 1)), 40)
    options = [
        {int(option.otype): option for option in dns.message.from_wire(query).options} for query in queries
    ]
    cookie, ecs, padding = dns.edns.OptionType.COOKIE, dns.edns.OptionType.ECS, dns.edns.OptionType.PADDING
    assert [set(each) for each in options[:4]] == [{cookie}, {ecs}, {padding}, {cookie, ecs, padding}]
    cookies = [each[cookie].to_wire() for each in options if cookie in each]
    assert len(set(cookies)) == 20
    assert all(len(query) % 128 == 0 for query, each in zip(queries, options, strict=True) if padding in each)
    assert all(isinstance(each[ecs], dns.edns.ECSOption) for each in options if ecs in each)


def test_every_second_polite_question_is_new() -> None:
    questions = list(islice(polite_questions(make_services(150, 5)), 400))
    assert len(set(questions[1::2])) == 200
    assert set(questions[::2]) == set(service_questions(make_services(100, 5)))


def test_the_zone_file_and_the_static_file_have_the_same_additional_endpoints() -> None:
    (members,) = parse_static(endpoints_in_static_file("web", 600), [NAMESPACE], origin="static").values()
    zone = dns.zone.from_text(to_zone_file([]) + endpoints_in_zone_file("web", 600), relativize=False)
    (member,) = members
    assert len({endpoint.host for endpoint in member.additional.values()}) == 600
    for name, endpoint in member.additional.items():
        (srv,) = zone.find_rdataset(f"_{name}._tcp.web.staging.discovery.", "SRV")
        (address,) = zone.find_rdataset(srv.target, "A")
        assert (str(address), srv.port) == (endpoint.host, endpoint.port)


def test_messages_are_written_with_their_length(tmp_path: Path) -> None:
    queries = write_messages(tmp_path / "queries", [QUERY, QUERY])
    assert queries.packets.read_bytes() == 2 * (len(QUERY).to_bytes(2) + QUERY)
    assert queries.count == 2


# -- the client that reads nothing -------------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        yield listening


def test_the_client_sends_all_queries_and_keeps_the_connections(listener: socket.socket) -> None:
    framed, port = 2 + len(QUERY), listener.getsockname()[1]
    with contextlib.ExitStack() as accepted:
        with unread_responses(port, QUERY, connections=2, each=100) as unread:
            for _ in range(2):
                connection = accepted.enter_context(listener.accept()[0])
                with connection.makefile("rb") as stream:
                    received = stream.read(100 * framed)
                idents = [int.from_bytes(received[at + 2 : at + 4]) for at in range(0, len(received), framed)]
                assert idents == list(range(100))
        assert (unread.opened, unread.sent, unread.closed) == (2, 200, 0)


def test_the_client_replaces_connections_that_the_server_closes(listener: socket.socket) -> None:
    with unread_responses(listener.getsockname()[1], QUERY, connections=1, each=1) as unread:
        for _ in range(3):
            accepted, _ = listener.accept()
            accepted.close()
        eventually(lambda: unread.closed >= 3)
    assert unread.opened >= 3


# -- calculations ------------------------------------------------------------------------------------------


def phase(
    p99: float, *, lost: int = 0, resident: float = 100, proportional: float = 50, **rcodes: int
) -> Phase:
    result = LoadResult(1.0, 1000, lost=lost, rcodes=rcodes or {"NOERROR": 1000}, median=p99 / 2, p99=p99)
    return Phase(result, Memory(resident, proportional))


def test_lost_queries_include_wrong_responses() -> None:
    assert phase(100).lost == 0
    assert phase(100, lost=2, NOERROR=997, SERVFAIL=3).lost == 5


def test_the_p99_latency_is_the_timeout_if_more_than_a_hundredth_is_lost() -> None:
    assert phase(100, lost=9).p99 == 100
    assert phase(100, lost=11).p99 == CLIENT_TIMEOUT * 1e6
    nothing = Phase(LoadResult(1.0, 0), Memory(1, 1))
    assert nothing.p99 == CLIENT_TIMEOUT * 1e6


def test_values_of_zkdns_have_limits_and_those_of_the_compared_server_are_next_to_them() -> None:
    report = Report()
    own = Outcome(phase(100), phase(350, lost=1, proportional=70), Traffic(9, 8))
    other = Outcome(phase(50), phase(60), Traffic(9, 9))
    report_kind(report, "abuse", {"zkdns": own, "knot": other})
    latency, lost, memory, hostile = report.results
    assert (latency.measured, latency.is_within_limit) == (3.5, False)
    assert (lost.measured, lost.is_within_limit) == (1, False)
    assert (memory.measured, memory.is_within_limit) == (1.4, False)
    assert (hostile.measured, hostile.is_within_limit) == (9, None)
    assert latency.details == {"zkdns": 3.5, "knot": pytest.approx(1.2)}
    assert "knot: 1.20 x" in latency.yardstick
    assert lost.yardstick == "zkdns: 1 of 1,001 (1 without a response); knot: 0 of 1,000"


# -- the run -----------------------------------------------------------------------------------------------


class NotInstalled(Knot):
    name, program = "absent", "no-such-program"


@needs_two_cores
@pytest.mark.processes
def test_a_missing_server_is_reported_and_zkdns_is_measured(tmp_path: Path) -> None:
    report, steps = Report(), list[str]()
    cores = choose_cores()
    load = Load(tmp_path, cores.load)
    bench = Bench(report, steps.append, tmp_path, cores, load, load.flood, 1, 0.2)
    assert run(bench, {"edns-options": replace(KINDS["edns-options"], rival=NotInstalled)})
    assert [step for step in steps if "absent is not measured: no-such-program is not installed" in step]
    latency, *_, hostile = report.results
    assert latency.measured > 0
    assert hostile.measured > 0


@needs_two_cores
@pytest.mark.processes
def test_a_kind_runs_from_the_command_line() -> None:
    command = [sys.executable, "-m", "tests.bench.abuse", "unread-tcp", "--seconds", "0.2", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert [(result["section"], result["name"]) for result in json.loads(ran.stdout)] == [
        ("unread-tcp", "p99 latency, abuse / quiet"),
        ("unread-tcp", "lost polite queries"),
        ("unread-tcp", "memory, abuse / quiet"),
        ("unread-tcp", "hostile queries"),
    ]


@pytest.mark.parametrize(
    ("arguments", "error"), [(["rain"], "'rain' is not a kind"), (["--seconds", "60"], "must be 0.1 to 4")]
)
def test_a_wrong_argument_is_a_usage_error(arguments: list[str], error: str) -> None:
    command = [sys.executable, "-m", "tests.bench.abuse", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert error in ran.stderr
