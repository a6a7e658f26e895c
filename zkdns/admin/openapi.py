"""The description of the HTTP API: a table of its requests, and the OpenAPI 3.1 document made from it.

`api.py` takes the accepted parameters from the table, and the schemas of the responses come from their types.
"""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from typing import Any, Final, Literal

import msgspec

from zkdns import __version__
from zkdns.admin.api_types import (
    Explanation,
    Failure,
    Flushed,
    HistoryPage,
    LossesAccepted,
    MemberCount,
    MemberRow,
    Names,
    Reloaded,
    ServiceDigests,
    ServiceListing,
    TargetGroup,
)
from zkdns.admin.status import StatsReading, Status, TrafficReading
from zkdns.serverset.service_counts import Listing
from zkdns.telemetry.last_hour import HourSeries

OPENAPI: Final = "/api/openapi.json"
JSON: Final = "application/json"
LINES: Final = "application/x-ndjson"
DEFAULT_LIMIT: Final = 1_000
MAX_LIMIT: Final = 10_000
MAX_NUMBER: Final = (1 << 63) - 1

_STREAM = "text/event-stream"
_COMPONENTS = "#/components/schemas/{name}"
_TOKEN = "token"  # noqa: S105 - the name of the security scheme


class Parameter(msgspec.Struct, frozen=True):
    """A parameter in the query string."""

    name: str
    description: str
    schema: dict[str, Any]
    is_required: bool = False


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A request of the API."""

    path: str
    summary: str
    response: Any
    """Type of the response, or of a line; None: it has no schema."""
    parameters: tuple[Parameter, ...] = ()
    method: Literal["get", "post"] = "get"
    media: str = JSON
    errors: tuple[HTTPStatus, ...] = ()
    """Statuses of errors, except those that every request can have."""


_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
_FLAG: dict[str, Any] = {"type": "string", "const": "1"}
_SERVICE = "A service: its name with or without its zone, the path of its znode, or a member's address."

ENDPOINTS: Final = (
    Endpoint(path="/api/status", summary="State of the server", response=Status),
    Endpoint(path="/api/stats", summary="Counters and gauges at one moment", response=StatsReading),
    Endpoint(
        path="/api/traffic",
        summary="Responses by service, and the most frequent names and clients",
        response=TrafficReading,
    ),
    Endpoint(path="/api/last-hour", summary="The last hour in steps of ten seconds", response=HourSeries),
    Endpoint(
        path="/api/services",
        summary="Services with their numbers of members",
        response=ServiceListing,
        parameters=(
            Parameter(
                "after",
                "Only services that have changed after the history entry with this number. 0: all services.",
                {"type": "integer", "minimum": 0, "maximum": MAX_NUMBER, "default": 0},
            ),
        ),
    ),
    Endpoint(
        path="/api/explain",
        summary="A name, its answers and each member; 404 with the same fields if the name does not exist",
        response=Explanation,
        parameters=(
            Parameter("name", "A name, an address, or the path of a znode.", _TEXT, is_required=True),
        ),
        errors=(HTTPStatus.NOT_FOUND,),
    ),
    Endpoint(
        path="/api/history",
        summary="Changes of services and members, oldest first",
        response=HistoryPage,
        parameters=(
            Parameter("service", _SERVICE, _TEXT),
            Parameter(
                "after",
                "Only entries with a greater number, the oldest of them. 0: the newest entries.",
                {"type": "integer", "minimum": 0, "maximum": MAX_NUMBER, "default": 0},
            ),
            Parameter(
                "limit",
                "Maximum number of entries.",
                {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
            ),
        ),
    ),
    Endpoint(
        path="/api/count",
        summary="Number of members in the responses for a service",
        response=MemberCount,
        parameters=(Parameter("service", _SERVICE, _TEXT, is_required=True),),
    ),
    Endpoint(
        path="/api/names",
        summary="Names of services, for completion and suggestions",
        response=Names,
        parameters=(
            Parameter("prefix", "Beginning of the names.", {"type": "string", "default": ""}),
            Parameter("held", "1: only services with held members.", _FLAG),
            Parameter(
                "near", "An unknown name: up to three similar ones, the most similar one first.", _TEXT
            ),
        ),
    ),
    Endpoint(
        path="/api/sets",
        summary="Server sets with their numbers of registered members",
        response=Listing,
        parameters=(Parameter("environment", "Only sets of this environment.", _TEXT),),
        errors=(HTTPStatus.NOT_FOUND,),
    ),
    Endpoint(
        path="/api/members",
        summary="All members, or those of one service, with all their fields, one on each line",
        response=MemberRow,
        parameters=(
            Parameter(
                "service", "A service: its name with or without its zone, or the path of its znode.", _TEXT
            ),
        ),
        media=LINES,
        errors=(HTTPStatus.NOT_FOUND,),
    ),
    Endpoint(
        path="/api/digests",
        summary="The digest of each service, to compare servers",
        response=ServiceDigests,
        errors=(HTTPStatus.NOT_FOUND,),
    ),
    Endpoint(
        path="/api/table",
        summary="The table in lines for `zkdns dump`; their format belongs to the version",
        response=None,
        media=LINES,
        errors=(HTTPStatus.NOT_FOUND,),
    ),
    Endpoint(
        path="/api/prometheus-sd",
        summary="All members as targets, for http_sd_configs of Prometheus",
        response=list[TargetGroup],
        parameters=(
            Parameter("endpoint", "Name of an additional endpoint. Without it: the service endpoint.", _TEXT),
        ),
        errors=(HTTPStatus.NOT_FOUND,),
    ),
    Endpoint(
        path="/api/events",
        summary="Server-sent events: status, change and point",
        response=None,
        media=_STREAM,
    ),
    Endpoint(path=OPENAPI, summary="This document", response=None),
    Endpoint(
        path="/api/accept",
        method="post",
        summary="Release held members of one service or of all",
        response=LossesAccepted,
        parameters=(
            Parameter("service", _SERVICE, _TEXT),
            Parameter("all", "1: the members of all services, instead of `service`.", _FLAG),
        ),
        errors=(HTTPStatus.NOT_FOUND,),
    ),
    Endpoint(
        path="/api/flush",
        method="post",
        summary="Remove entries from the forward caches",
        response=Flushed,
        parameters=(
            Parameter(
                "name",
                "Only this name and the names below it, or an address. Without it: all entries.",
                _TEXT,
            ),
        ),
        errors=(HTTPStatus.NOT_FOUND,),
    ),
    Endpoint(
        path="/api/reload",
        method="post",
        summary="Read the configuration again and apply it",
        response=Reloaded,
        parameters=(Parameter("all", "1: replace all processes, even if nothing has changed.", _FLAG),),
        errors=(HTTPStatus.CONFLICT,),
    ),
)
"""All requests below `/api/`."""

PARAMETERS: Final = {one.path: tuple(each.name for each in one.parameters) for one in ENDPOINTS}
"""The names of the accepted parameters by path."""

_OF_EVERY_REQUEST = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.MISDIRECTED_REQUEST,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
_OF_CHANGES = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


@cache
def document() -> bytes:
    """Return the OpenAPI document as JSON."""
    types = [Failure, *(one.response for one in ENDPOINTS if one.response is not None)]
    schemas, components = msgspec.json.schema_components(types, ref_template=_COMPONENTS)
    of_type = dict(zip(types, schemas, strict=True))
    paths: dict[str, Any] = {}
    for one in ENDPOINTS:
        paths.setdefault(one.path, {})[one.method] = _operation(one, of_type)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "zkdns",
                "version": __version__,
                "description": "The API of a zkdns server, at its admin address and at its Unix socket.",
                "license": {"name": "MIT", "identifier": "MIT"},
            },
            "servers": [{"url": "/"}],
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {
                    _TOKEN: {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "The token of `admin.token`. The Unix socket needs none.",
                    }
                },
            },
        }
    )


def _operation(one: Endpoint, of_type: dict[Any, Any]) -> dict[str, Any]:
    content = {} if one.response is None else {"schema": of_type[one.response]}
    failure = {JSON: {"schema": of_type[Failure]}}
    errors = {*_OF_EVERY_REQUEST, *one.errors, *(_OF_CHANGES if one.method == "post" else ())}
    operation: dict[str, Any] = {
        "operationId": f"{one.method}-{one.path.removeprefix('/api/').removesuffix('.json')}",
        "summary": one.summary,
        "responses": {
            "200": {"description": "Success", "content": {one.media: content}},
            **{
                str(int(status)): {"description": status.phrase, "content": failure}
                for status in sorted(errors)
            },
        },
    }
    if one.parameters:
        operation["parameters"] = [
            {
                "name": each.name,
                "in": "query",
                "required": each.is_required,
                "description": each.description,
                "schema": each.schema,
            }
            for each in one.parameters
        ]
    if one.method == "post":
        operation["security"] = [{_TOKEN: []}]
    return operation
