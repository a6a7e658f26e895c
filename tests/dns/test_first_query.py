"""The first query of a service makes its names, records and responses: a bounded number of function calls."""

from __future__ import annotations

import pytest

from tests.dns.helpers import Server, encode_query, many, member
from tests.support.line_count import at_most_calls
from zkdns.dns.rotation import PartialRotation

WEB = "web.staging.discovery"
# About a tenth more than needed. A call takes some 0.3 µs.
MAX_CALLS, MAX_CALLS_PER_MEMBER = 290, 29


def server_and_query(qtype: str, members: int) -> tuple[Server, bytes]:
    """A server that has answered queries for another service, and the first query for this one."""
    service = [
        member(at, address, shard=at, additional={"admin": address})
        for at, address in enumerate(many(members))
    ]
    server = Server({WEB: service, "api.staging.discovery": many(1)})
    server.respond(encode_query("api.staging.discovery", qtype, edns=0))
    return server, encode_query(WEB, qtype, edns=0)


@pytest.mark.parametrize("is_stale", [False, True])
@pytest.mark.parametrize("qtype", ["A", "AAAA", "SRV", "TXT"])
@pytest.mark.parametrize("members", [1, 10])
def test_the_first_query_of_a_service_calls_a_bounded_number_of_functions(
    qtype: str, members: int, is_stale: bool
) -> None:
    server, message = server_and_query(qtype, members)
    server.authority.set_health(ready=True, stale=is_stale)
    with at_most_calls(MAX_CALLS + members * MAX_CALLS_PER_MEMBER):
        assert server.respond(message)


def test_responses_with_some_of_the_records_are_built_when_they_are_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[int] = []
    build = PartialRotation.build

    def counting(rotation: PartialRotation, index: int) -> bytes:
        built.append(index)
        return build(rotation, index)

    monkeypatch.setattr(PartialRotation, "build", counting)
    server = Server({WEB: many(10)}, max_answers=3)
    for number in range(1, 21):
        assert server.respond(encode_query(WEB, edns=0))
        assert len(built) == len(set(built)) == min(number, 10)
