"""The calls below /api/: what they tell, what they take, and whom they let change something."""

import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from tests.observe.admin_helpers import STATUS, Told, ask, entry, serving
from zkdns.address import HostPort
from zkdns.daemon.inquiries import Explained, Kind, ServiceLine
from zkdns.observe.series import NAMES, POINTS

TOKEN = "0123456789abcdef0123"  # noqa: S105 - of these tests
BEARER = f"Bearer {TOKEN}"


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(TOKEN)
    return str(path)


@pytest.fixture
def told(token_file: str) -> Told:
    return Told(token_file=token_file)


@pytest.fixture
def at(told: Told) -> Iterator[HostPort]:
    with serving(told) as address:
        yield address


# -- reading ------------------------------------------------------------------------------------------------


def test_status_tells_the_server(at: HostPort) -> None:
    answer = ask(at, "/api/status")
    assert answer.json == {
        "version": "1",
        "ready": True,
        "zones": ["discovery"],
        "listening": ["127.0.0.1:53"],
        "source": "zookeeper",
        "zookeeper": {"hosts": "zk:2181", "state": "live", "stale_seconds": 0.0},
        "table": {"services": 1, "alive": 3, "hidden": 0, "held": 0, "bad": 0},
        "workers": [{"pid": 7, "ready": True}],
        "upstreams": [],
        "started": STATUS.started,
        "now": STATUS.now,
    }


def test_services_are_told_in_numbers(told: Told, at: HostPort) -> None:
    told.lines = [ServiceLine("web.staging", 3, 1, 0, 0, 0, None)]
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
            }
        ]
    }


def explained(kind: Kind) -> Explained:
    return Explained(
        asked="web",
        name="web.staging.discovery",
        kind=kind,
        rule="it is so",
        is_answered=True,
        ready=True,
        stale=False,
        now=1.0,
    )


def test_an_explanation_is_told_and_of_what_there_is_not_with_404(told: Told, at: HostPort) -> None:
    told.explanation = explained("service")
    answer = ask(at, "/api/explain?name=web.staging%2fx")
    assert (answer.status, answer.json["kind"]) == (HTTPStatus.OK, "service")
    assert told.done == [("explain", "web.staging/x")]
    told.explanation = explained("absent")
    answer = ask(at, "/api/explain?name=nope")
    assert (answer.status, answer.error) == (HTTPStatus.NOT_FOUND, "it is so")
    assert answer.json["kind"] == "absent"


def test_history_is_told_by_service_and_number(told: Told, at: HostPort) -> None:
    told.entries = [entry(1), entry(2, "db.prod"), entry(3)]
    numbers = [one["number"] for one in ask(at, "/api/history").json["entries"]]
    assert numbers == [1, 2, 3]
    answer = ask(at, "/api/history?service=web.staging&after=1").json
    assert ([one["number"] for one in answer["entries"]], answer["last"]) == ([3], 3)
    answer = ask(at, "/api/history?after=1&most=1").json
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


def test_figures_are_the_last_hours(at: HostPort) -> None:
    figures = ask(at, "/api/figures").json
    assert figures["step"] == 10
    assert abs(figures["until"] - time.time()) < 60
    assert set(figures["series"]) == set(NAMES)
    assert all(len(values) == POINTS for values in figures["series"].values())


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/api/status?x=1", "the parameter 'x' is unknown; there are none"),
        ("/api/history?servise=web", "the parameter 'servise' is unknown; there are service, after, most"),
        ("/api/history?after=1&after=2", "the parameter after is given twice"),
        ("/api/history?after=-1", "after is '-1'; write a number from 0 to 9223372036854775807"),
        (
            "/api/history?after=9223372036854775808",
            "after is '9223372036854775808'; write a number from 0 to",
        ),
        ("/api/history?most=0", "most is '0'; write a number from 1 to 10000"),
        ("/api/history?most=10001", "most is '10001'; write a number from 1 to 10000"),
        ("/api/history?most=%D9%A1", "most is '\u0661'; write a number from 1 to 10000"),
        ("/api/explain", "name one with ?name=, as ?name=web.staging"),
        ("/api/explain?name=", "name one with ?name=, as ?name=web.staging"),
    ],
)
def test_mistakes_are_told_with_what_would_be_accepted(at: HostPort, path: str, error: str) -> None:
    answer = ask(at, path)
    assert answer.status == HTTPStatus.BAD_REQUEST
    assert answer.error.startswith(error)


@pytest.mark.parametrize("path", ["/api/services", "/api/explain?name=web", "/api/history"])
def test_while_the_watcher_is_away_that_is_said_with_503(told: Told, at: HostPort, path: str) -> None:
    told.is_away = True
    answer = ask(at, path)
    assert (answer.status, answer.error) == (HTTPStatus.SERVICE_UNAVAILABLE, "it is away")


def test_a_mistake_of_ours_is_a_sentence_and_costs_nothing_else(at: HostPort) -> None:
    answer = ask(at, "/api/explain?name=web")  # nobody has said what it is
    assert answer.status == HTTPStatus.INTERNAL_SERVER_ERROR
    assert answer.error == "the server could not do it; its log says why"
    assert ask(at, "/api/status").status == HTTPStatus.OK


# -- changing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "done"),
    [
        ("/api/accept?service=web.staging", ("accept", "web.staging")),
        ("/api/accept?all=1", ("accept", None)),
        ("/api/flush?name=example.com", ("flush", "example.com")),
        ("/api/flush", ("flush", None)),
        ("/api/reload", ("reload", None)),
    ],
)
def test_who_has_the_token_may_change_something(
    told: Told, at: HostPort, path: str, done: tuple[str, object]
) -> None:
    answer = ask(at, path, "POST", Authorization=BEARER)
    assert answer.status == HTTPStatus.OK
    assert told.done == [done]
    assert "error" not in answer.json
    assert ask(at, path, "POST", Authorization=BEARER, Sec_Fetch_Site="same-origin").status == answer.status


@pytest.mark.parametrize("path", ["/api/accept?all=1", "/api/flush", "/api/reload"])
def test_nobody_else_may(told: Told, at: HostPort, path: str) -> None:
    wrong = ask(at, path, "POST", Authorization=f"{BEARER}x")
    assert (wrong.status, wrong.headers["WWW-Authenticate"]) == (HTTPStatus.UNAUTHORIZED, "Bearer")
    assert ask(at, path, "POST").status == HTTPStatus.UNAUTHORIZED
    assert ask(at, path, Authorization=BEARER).status == HTTPStatus.METHOD_NOT_ALLOWED
    for site in ("cross-site", "same-site", "anything"):
        foreign = ask(at, path, "POST", Authorization=BEARER, Sec_Fetch_Site=site)
        assert (foreign.status, foreign.error) == (
            HTTPStatus.FORBIDDEN,
            "a page of another site must not do that",
        )
    told.token_file = None
    nobody = ask(at, path, "POST", Authorization=BEARER)
    assert nobody.status == HTTPStatus.FORBIDDEN
    assert "admin.token" in nobody.error
    assert told.done == []


@pytest.mark.parametrize("query", ["", "?all=0", "?service=", "?service=web&all=1", "?all=1&all=1", "?al=1"])
def test_what_is_to_be_accepted_must_be_said_clearly(told: Told, at: HostPort, query: str) -> None:
    assert ask(at, f"/api/accept{query}", "POST", Authorization=BEARER).status == HTTPStatus.BAD_REQUEST
    assert told.done == []
