"""Compressed responses and entity tags."""

import gzip
import http.client
import json
from collections.abc import Iterator
from contextlib import closing

import pytest
from aiohttp.test_utils import make_mocked_request

from tests.admin.helpers import SECONDS, FakeBackend, ask, serving
from zkdns.address import HostPort
from zkdns.admin.api_types import ServiceLine
from zkdns.admin.compression import MIN_SIZE, accepts_gzip


@pytest.fixture
def at() -> Iterator[HostPort]:
    lines = [ServiceLine(f"web-{number}.staging", 3, 1, 0, 0, 0, None) for number in range(100)]
    with serving(FakeBackend(lines=lines, metrics_text="zkdns_services 1\n" * 100)) as address:
        yield address


def get(
    at: HostPort, path: str, method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    """Send a request, and return the response and its body as it was sent."""
    with closing(http.client.HTTPConnection(at.host, at.port, timeout=SECONDS)) as connection:
        connection.request(method, path, headers={n.replace("_", "-"): v for n, v in headers.items()})
        response = connection.getresponse()
        return response, response.read()


@pytest.mark.parametrize("path", ["/", "/api/services", "/metrics", "/api/last-hour"])
def test_large_texts_are_compressed_for_clients_that_accept_it(at: HostPort, path: str) -> None:
    plain, body = get(at, path)
    assert plain.headers["Content-Encoding"] is None
    packed, sent = get(at, path, Accept_Encoding="br, gzip;q=0.8")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert int(packed.headers["Content-Length"]) == len(sent) < len(body) / 2
    if path != "/api/last-hour":  # has the time
        assert gzip.decompress(sent) == body
    for response in (plain, packed):
        assert response.headers["Vary"] == "Accept-Encoding"
        assert response.headers["Content-Security-Policy"]
    assert packed.headers["Content-Type"] == plain.headers["Content-Type"]
    head, nothing = get(at, path, "HEAD", Accept_Encoding="gzip")
    assert (head.status, nothing) == (200, b"")
    assert head.headers["Content-Encoding"] == "gzip"


def test_small_responses_and_event_streams_are_not_compressed(at: HostPort) -> None:
    response, body = get(at, "/api/status", Accept_Encoding="gzip")
    assert (response.headers["Content-Encoding"], json.loads(body)["version"]) == (None, "1")
    assert len(body) < MIN_SIZE
    stream, _ = get(at, "/api/events", "HEAD", Accept_Encoding="gzip")
    assert stream.headers["Content-Encoding"] is None


@pytest.mark.parametrize(
    ("header", "is_accepted"),
    [
        ("gzip", True),
        ("GZip ; q=0.5, identity", True),
        ("*", True),
        ("br, *;q=0.1", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000, *", False),
        ("*;q=0", False),
        ("br, deflate", False),
        ("x-gzipped", False),
        ("", False),
        (";;;,,=q", False),
    ],
)
def test_the_weights_of_codings_decide(header: str, is_accepted: bool) -> None:
    request = make_mocked_request("GET", "/", {"Accept-Encoding": header})
    assert accepts_gzip(request) is is_accepted


def test_an_unchanged_list_of_services_has_status_304() -> None:
    backend = FakeBackend(lines=[ServiceLine("web.staging", 3, 1, 0, 0, 0, None)])
    with serving(backend) as at:
        first = ask(at, "/api/services")
        tag = first.headers["ETag"]
        again = ask(at, "/api/services", If_None_Match=f'"other", {tag}', Accept_Encoding="gzip")
        assert (again.status, again.text, again.headers["ETag"]) == (304, "", tag)
        assert ask(at, "/api/services", If_None_Match='"other"').text == first.text
        backend.lines = [ServiceLine("web.staging", 4, 1, 0, 0, 0, None)]
        changed = ask(at, "/api/services", If_None_Match=tag)
        assert (changed.status, changed.json["services"][0]["alive"]) == (200, 4)
        assert changed.headers["ETag"] != tag


def test_a_list_of_changes_needs_a_number(at: HostPort) -> None:
    assert ask(at, "/api/services?after=1").json["services"] == []
    assert "after is 'x'; write a number" in ask(at, "/api/services?after=x").error
