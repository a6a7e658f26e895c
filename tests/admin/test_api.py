"""The JSON API: responses, parameters, errors, and requests that need the token."""

import contextlib
import socket
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.admin.helpers import DIGEST, STATUS, FakeBackend, ask, entry, serving
from tests.support.waiting import eventually
from zkdns.address import HostPort
from zkdns.admin.api import MAX_RUNNING
from zkdns.admin.api_types import Explanation, Kind, ServiceLine, UnreadZnode
from zkdns.admin.status import StatsReading
from zkdns.telemetry.last_hour import NAMES, POINTS
from zkdns.telemetry.stats import (
    LATENCY_BUCKETS,
    ForwardStats,
    LatencyStats,
    ResponseStats,
    UpstreamStats,
    WorkerStats,
)

TOKEN = "0123456789abcdef0123"  # noqa: S105 - of these tests
BEARER = f"Bearer {TOKEN}"


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(TOKEN)
    return str(path)


@pytest.fixture
def backend(token_file: str) -> FakeBackend:
    return FakeBackend(token_file=token_file)


@pytest.fixture
def at(backend: FakeBackend) -> Iterator[HostPort]:
    with serving(backend) as address:
        yield address


# -- reading ------------------------------------------------------------------------------------------------


TABLE = {
    "services": 1,
    "alive": 3,
    "hidden": 0,
    "held": 0,
    "bad": 0,
    "digests": [DIGEST],
    "serial": 0,
    "changed": None,
}


def test_status_is_the_state_of_the_server(at: HostPort) -> None:
    answer = ask(at, "/api/status")
    assert answer.json == {
        "version": "1",
        "ready": True,
        "zones": ["discovery"],
        "namespaces": [{"template": "/discovery/{environment}/{service}", "zone": "discovery"}],
        "listening": ["127.0.0.1:53"],
        "listening_tls": [],
        "source": "zookeeper",
        "zookeeper": {
            "hosts": "zk:2181",
            "state": "live",
            "stale_seconds": 0.0,
            "problem": "",
            "namespaces": [],
        },
        "table": TABLE,
        "workers": [{"pid": 7, "ready": True, "digests": [DIGEST]}],
        "upstreams": [],
        "transfer": None,
        "primary": None,
        "restarts": {},
        "started": STATUS.started,
        "now": STATUS.now,
    }


def test_services_are_lines_of_counts(backend: FakeBackend, at: HostPort) -> None:
    backend.lines = [ServiceLine("web.staging", 3, 1, 0, 0, 0, None, "staging")]
    backend.unread = [UnreadZnode("/discovery/prod", "access denied")]
    assert ask(at, "/api/services").json == {
        "services": [
            {
                "name": "web.staging",
                "alive": 3,
                "hidden": 1,
                "held": 0,
                "bad": 0,
                "drained": 0,
                "changed": None,
                "environment": "staging",
            }
        ],
        "gone": [],
        "last": 0,
        "unread": [{"path": "/discovery/prod", "reason": "access denied"}],
        "unread_count": 1,
    }


def explained(kind: Kind) -> Explanation:
    return Explanation(
        asked="web",
        name="web.staging.discovery",
        kind=kind,
        rule="it is so",
        is_answered=True,
        ready=True,
        stale=False,
        now=1.0,
    )


def test_an_explanation_of_an_absent_name_has_status_404(backend: FakeBackend, at: HostPort) -> None:
    backend.explanation = explained("service")
    answer = ask(at, "/api/explain?name=web.staging%2fx")
    assert (answer.status, answer.json["kind"]) == (HTTPStatus.OK, "service")
    assert backend.done == [("explain", "web.staging/x")]
    backend.explanation = explained("absent")
    answer = ask(at, "/api/explain?name=nope")
    assert (answer.status, answer.error) == (HTTPStatus.NOT_FOUND, "it is so")
    assert answer.json["kind"] == "absent"


def test_history_is_selected_by_service_and_number(backend: FakeBackend, at: HostPort) -> None:
    backend.entries = [entry(1), entry(2, "db.prod"), entry(3)]
    numbers = [one["number"] for one in ask(at, "/api/history").json["entries"]]
    assert numbers == [1, 2, 3]
    answer = ask(at, "/api/history?service=web.staging&after=1").json
    assert ([one["number"] for one in answer["entries"]], answer["last"]) == ([3], 3)
    answer = ask(at, "/api/history?after=1&limit=1").json
    assert ([one["number"] for one in answer["entries"]], answer["last"]) == ([2], 2)
    assert answer["entries"][0] == {
        "number": 2,
        "at": 2e-6,
        "service": "db.prod",
        "member": "member_1",
        "kind": "joined",
        "endpoint": "10.0.0.1:80",
        "znode": "/d/web/member_1",
    }


def worker(udp: int, **more: Any) -> WorkerStats:
    return WorkerStats(
        udp_queries=udp,
        tcp_queries=2,
        responses=(ResponseStats(transport="udp", qtype="A", rcode="NOERROR", count=udp),),
        sources={"zone": 3},
        latencies=(LatencyStats(kind="computed", counts=(udp, *[0] * len(LATENCY_BUCKETS)), seconds=0.5),),
        response_cache_entries=4,
        **more,
    )


def test_stats_are_counters_and_gauges_of_each_worker(backend: FakeBackend, at: HostPort) -> None:
    upstream = UpstreamStats(
        address="192.0.2.1:53",
        domain="",
        is_dead=False,
        rtt_seconds=0.25,
        queries=8,
        timeouts=1,
        bad_messages=0,
    )
    forward = ForwardStats(queries=9, cache_entries=7, upstreams=(upstream,))
    backend.workers = {7: worker(10), 8: worker(20, forward=forward)}
    stats = ask(at, "/api/stats").json
    first, second = stats.pop("workers")
    assert stats == {
        "version": "1",
        "started": STATUS.started,
        "now": STATUS.now,
        "clock": 3.0,
        "latency_buckets": list(LATENCY_BUCKETS),
        "zookeeper": {
            "hosts": "zk:2181",
            "state": "live",
            "stale_seconds": 0.0,
            "problem": "",
            "namespaces": [],
        },
        "table": TABLE,
        "transfer": None,
        "primary": None,
    }
    assert first == {
        "pid": 7,
        "udp_queries": 10,
        "tcp_queries": 2,
        "tls_queries": 0,
        "responses": [{"transport": "udp", "qtype": "A", "rcode": "NOERROR", "count": 10}],
        "sources": {"zone": 3},
        "latencies": [{"kind": "computed", "counts": [10, *[0] * len(LATENCY_BUCKETS)], "seconds": 0.5}],
        "response_cache_misses": 0,
        "response_cache_evictions": 0,
        "response_cache_entries": 4,
        "response_cache_bytes": 0,
        "waiting_for_services": 0,
        "unsent": 0,
        "truncated_over_tcp": 0,
        "refused": 0,
        "rate_limited": 0,
        "tcp_connections": 0,
        "tcp_held_bytes": 0,
        "tcp_replaced_connections": 0,
        "tcp_dropped_connections": 0,
        "tls_connections": 0,
        "tls_handshakes": 0,
        "tls_failed_handshakes": 0,
        "forward": None,
        "digests": [],
    }
    assert (second["pid"], second["forward"]["queries"], second["forward"]["cache_entries"]) == (8, 9, 7)
    assert second["forward"]["upstreams"] == [
        {
            "address": "192.0.2.1:53",
            "domain": "",
            "is_dead": False,
            "rtt_seconds": 0.25,
            "queries": 8,
            "timeouts": 1,
            "bad_messages": 0,
        }
    ]


def test_stats_can_be_decoded_by_their_type(backend: FakeBackend, at: HostPort) -> None:
    backend.workers = {7: worker(10)}
    assert msgspec.json.decode(ask(at, "/api/stats").text, type=StatsReading) == backend.stats()


def test_last_hour_has_all_series(at: HostPort) -> None:
    hour = ask(at, "/api/last-hour").json
    assert hour["step"] == 10
    assert abs(hour["until"] - time.time()) < 60
    assert set(hour["series"]) == set(NAMES)
    assert all(len(values) == POINTS for values in hour["series"].values())


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/api/stats?x=1", "the parameter 'x' is unknown; there are none"),
        ("/api/status?x=1", "the parameter 'x' is unknown; there are none"),
        (
            "/api/history?servise=web",
            "the parameter 'servise' is unknown; known parameters: service, after, limit",
        ),
        ("/api/history?after=1&after=2", "the parameter after occurs twice"),
        ("/api/history?after=-1", "after is '-1'; write a number from 0 to 9223372036854775807"),
        (
            "/api/history?after=9223372036854775808",
            "after is '9223372036854775808'; write a number from 0 to",
        ),
        ("/api/history?limit=0", "limit is '0'; write a number from 1 to 10000"),
        ("/api/history?limit=10001", "limit is '10001'; write a number from 1 to 10000"),
        ("/api/history?limit=%D9%A1", "limit is '\u0661'; write a number from 1 to 10000"),
        ("/api/explain", "the parameter name is missing; write ?name=web.staging"),
        ("/api/explain?name=", "the parameter name is missing; write ?name=web.staging"),
    ],
)
def test_invalid_parameters_are_400_with_advice(at: HostPort, path: str, error: str) -> None:
    answer = ask(at, path)
    assert answer.status == HTTPStatus.BAD_REQUEST
    assert answer.error.startswith(error)


@pytest.mark.parametrize("path", ["/api/services", "/api/explain?name=web", "/api/history"])
def test_without_the_watcher_requests_to_it_are_503(backend: FakeBackend, at: HostPort, path: str) -> None:
    backend.is_away = True
    answer = ask(at, path)
    assert (answer.status, answer.error) == (HTTPStatus.SERVICE_UNAVAILABLE, "it is away")


def test_an_internal_error_is_500_and_the_server_continues(at: HostPort) -> None:
    answer = ask(at, "/api/explain?name=web")  # fails in the fake backend
    assert answer.status == HTTPStatus.INTERNAL_SERVER_ERROR
    assert answer.error == "internal error; the log has the details"
    assert ask(at, "/api/status").status == HTTPStatus.OK


# -- changing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "done"),
    [
        ("/api/accept?service=web.staging", ("accept", "web.staging")),
        ("/api/accept?all=1", ("accept", None)),
        ("/api/flush?name=example.com", ("flush", "example.com")),
        ("/api/flush", ("flush", None)),
        ("/api/reload", ("reload", False)),
        ("/api/reload?all=1", ("reload", True)),
    ],
)
def test_requests_with_the_token_are_executed(
    backend: FakeBackend, at: HostPort, path: str, done: tuple[str, object]
) -> None:
    answer = ask(at, path, "POST", Authorization=BEARER)
    assert answer.status == HTTPStatus.OK
    assert backend.done == [done]
    assert "error" not in answer.json
    assert ask(at, path, "POST", Authorization=BEARER, Sec_Fetch_Site="same-origin").status == answer.status


@pytest.mark.parametrize("path", ["/api/accept?all=1", "/api/flush", "/api/reload"])
def test_other_requests_that_change_something_are_rejected(
    backend: FakeBackend, at: HostPort, path: str
) -> None:
    wrong = ask(at, path, "POST", Authorization=f"{BEARER}x")
    assert (wrong.status, wrong.headers["WWW-Authenticate"]) == (HTTPStatus.UNAUTHORIZED, "Bearer")
    assert ask(at, path, "POST").status == HTTPStatus.UNAUTHORIZED
    assert ask(at, path, Authorization=BEARER).status == HTTPStatus.METHOD_NOT_ALLOWED
    for site in ("cross-site", "same-site", "anything"):
        foreign = ask(at, path, "POST", Authorization=BEARER, Sec_Fetch_Site=site)
        assert (foreign.status, foreign.error) == (
            HTTPStatus.FORBIDDEN,
            "requests from pages of other sites are not allowed",
        )
    backend.token_file = None
    disabled = ask(at, path, "POST", Authorization=BEARER)
    assert disabled.status == HTTPStatus.FORBIDDEN
    assert "admin.token" in disabled.error
    assert backend.done == []


@pytest.mark.parametrize("query", ["", "?all=0", "?service=", "?service=web&all=1", "?all=1&all=1", "?al=1"])
def test_accept_needs_either_a_service_or_all(backend: FakeBackend, at: HostPort, query: str) -> None:
    assert ask(at, f"/api/accept{query}", "POST", Authorization=BEARER).status == HTTPStatus.BAD_REQUEST
    assert backend.done == []


# -- limits -------------------------------------------------------------------------------------------------


def test_few_requests_for_the_watchers_data_run_at_a_time_and_all_are_answered() -> None:
    backend, request = FakeBackend(is_holding=True), b"GET /api/services HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with serving(backend) as at, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection((at.host, at.port), 20.0)) for _ in range(30)]
        for client in clients:
            client.sendall(request)
        eventually(lambda: backend.running == MAX_RUNNING)
        for _ in range(5):  # the requests above were read before these
            assert ask(at, "/api/status").status == HTTPStatus.OK
        assert backend.running == MAX_RUNNING
        backend.is_holding = False
        for client in clients:
            assert client.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
