"""The OpenAPI document: its form, and the responses of a real server compared with its schemas."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.admin.helpers import FakeBackend, ask, serving
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from zkdns.admin.client import ApiClient, ServerAddress
from zkdns.admin.openapi import document

DOCUMENT: dict[str, Any] = json.loads(document())
OPERATIONS = [
    (method, path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]


def schema_errors(schema: dict[str, Any], value: object) -> list[str]:
    """Compare a value with a schema of the document."""
    whole = {**schema, "components": DOCUMENT["components"]}
    return [error.message for error in Draft202012Validator(whole).iter_errors(value)]


def test_the_document_is_valid() -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


def test_the_server_returns_the_document() -> None:
    with serving() as at:
        assert ask(at, "/api/openapi.json").json == DOCUMENT


def test_parameters_that_are_not_described_are_refused() -> None:
    with serving(FakeBackend()) as at:
        for method, path, operation in OPERATIONS:
            known = ", ".join(one["name"] for one in operation.get("parameters", ()))
            if method == "get" and path != "/api/events":
                error = ask(at, f"{path}?other=1").error
                assert error.endswith(f"known parameters: {known}" if known else "there are none")


# -- responses of a real server -----------------------------------------------------------------------------

pytestmark = pytest.mark.processes

# A request of each operation, and its status.
CASES = {
    ("get", "/api/status"): [("", 200)],
    ("get", "/api/stats"): [("", 200)],
    ("get", "/api/traffic"): [("", 200)],
    ("get", "/api/last-hour"): [("", 200)],
    ("get", "/api/services"): [("", 200)],
    ("get", "/api/explain"): [("?name=web.staging", 200), ("?name=nothing.staging", 404), ("", 400)],
    ("get", "/api/history"): [("", 200), ("?service=web.staging&limit=5", 200), ("?limit=0", 400)],
    ("get", "/api/count"): [("?service=web.staging", 200), ("?service=a..b", 400)],
    ("get", "/api/names"): [
        ("?prefix=web", 200),
        ("?held=1", 200),
        ("?held=yes", 400),
        ("?near=web.stagin", 200),
    ],
    ("get", "/api/sets"): [("", 200), ("?environment=staging", 200), ("?x=1", 400)],
    ("get", "/api/members"): [("", 200), ("?service=web.staging", 200), ("?x=1", 400)],
    ("get", "/api/digests"): [("", 200), ("?x=1", 400)],
    ("get", "/api/table"): [("", 200)],
    ("get", "/api/prometheus-sd"): [("", 200), ("?endpoint=admin", 200), ("?x=1", 400)],
    ("get", "/api/openapi.json"): [("", 200)],
    ("post", "/api/accept"): [("?all=1", 404), ("", 400)],
    ("post", "/api/flush"): [("", 404)],
    ("post", "/api/reload"): [("", 200)],
}


@pytest.fixture(scope="module")
def server() -> Iterator[ZkdnsServer]:
    with ZkdnsServer("--demo") as running:
        running.wait_ready()
        running.query("web.staging.discovery")
        eventually(lambda: ApiClient(ServerAddress(path=running.api)).stats().workers)
        yield running


def test_every_operation_has_a_case() -> None:
    assert CASES.keys() == {(method, path) for method, path, _ in OPERATIONS if path != "/api/events"}


@pytest.mark.parametrize(("method", "path"), CASES)
def test_responses_match_their_schemas(method: str, path: str, server: ZkdnsServer) -> None:
    responses = DOCUMENT["paths"][path][method]["responses"]
    for query, expected in CASES[method, path]:
        status, media, body = send(server, method, path + query)
        assert status == expected, body
        content = responses[str(status)]["content"]
        assert media in content
        lines = body.splitlines() if media == "application/x-ndjson" else [body]
        assert lines
        for line in lines:
            assert schema_errors(content[media].get("schema", {}), json.loads(line)) == []


def send(server: ZkdnsServer, method: str, path: str) -> tuple[int, str, str]:
    """Send a request over the Unix socket; return status, media type and body."""
    client = ApiClient(ServerAddress(path=server.api))
    with client._response(method.upper(), path.removeprefix("/api/"), {}, 10.0) as response:  # noqa: SLF001
        media = (response.getheader("Content-Type") or "").partition(";")[0]
        return response.status, media, response.read().decode()


def test_a_wrong_response_does_not_match() -> None:
    schema = {"$ref": "#/components/schemas/MemberCount"}
    assert schema_errors(schema, {"answered": "3", "held": 0, "exists": True, "ready": True}) != []
    assert schema_errors(schema, {"held": 0}) != []
