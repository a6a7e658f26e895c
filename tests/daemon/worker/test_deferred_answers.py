"""Deferred responses to queries for large services: none is lost, and each is the present one."""

from __future__ import annotations

import gc
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import dns.flags
import dns.query
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dns.helpers import Server, ask, count_alive, data, many, member, put, query, rcode, read
from tests.dns.test_view_updates import KEY, QUERIES, WEB, changes_of_services, large
from tests.support.line_count import at_most_calls
from tests.transport.helpers import serving
from zkdns.daemon.worker import deferred_answers
from zkdns.daemon.worker.deferred_answers import MAX_ATTEMPTS, DeferredAnswers
from zkdns.dns import service_names
from zkdns.dns.member_records import LabeledMember
from zkdns.dns.steps import RELEASED_AT_ONCE
from zkdns.serverset.changes import Change
from zkdns.transport.codecs import UdpCodec
from zkdns.transport.contract import DeferredResponse, Render
from zkdns.transport.event_loop import deferrer

_MAX_CALLS = 17_000
"""Calls of Python functions in one piece of work; 3 to 4 ms. The longest one renders a response of 64 KiB."""


class Deferring:
    """A server that defers the work for large services, piece by piece."""

    def __init__(self, server: Server, **settings: Any) -> None:
        self.server = server
        self.pieces: deque[Callable[[], None]] = deque()
        self.errors: list[Exception] = []
        self.answers = DeferredAnswers(server.zone.steps, self.pieces.append, self.errors.append, **settings)

    def send(self, name: str, qtype: str = "A", *, stream: bool = False) -> list[bytes]:
        """Send a query. The response, once it is there, is the only element of the list, in wire format."""
        message = query(name, qtype).to_wire()
        received: list[bytes] = []

        def receive(render: Render, _size: int = 0, /) -> None:
            response = render()
            wire = message[:2] + response if stream else UdpCodec.message(message, response)
            received.append(wire)

        cache = self.server.streams if stream else self.server.datagrams
        response = next(cache[message[2:] if stream else UdpCodec.key(message[2:])])
        if isinstance(response, DeferredResponse):
            response.start(receive, bytes(4))
        else:
            receive(lambda: response)
        return received

    def run_piece(self) -> None:
        self.pieces.popleft()()

    def run(self) -> None:
        """Run pieces until nothing is left to do."""
        while self.pieces:
            self.run_piece()
        assert self.errors == []
        assert self.answers.waiting == 0

    def answer(self, name: str, qtype: str = "A", *, stream: bool = False) -> Any:
        """Send a query, and return its response after all pieces."""
        received = self.send(name, qtype, stream=stream)
        self.run()
        return read(received[0])


def records(response: Any) -> tuple[str, list[str]]:
    """Response code and sorted records of the answer. Truncated ones begin with any of the records."""
    return rcode(response), sorted(data(response)) if not response.flags & dns.flags.TC else ["truncated"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("name", "qtype"), QUERIES)
def test_no_piece_of_work_depends_on_the_number_of_members(name: str, qtype: str, stream: bool) -> None:
    deferring = Deferring(large(dns_sd=True, reverse=True))
    for change in (None, 1, 1000):
        if change is not None:
            new = [member(5000 + change + at, f"10.9.{at >> 8}.{at & 255}:80") for at in range(change)]
            deferring.server.change("web.staging", new, [f"member_{at:010d}" for at in range(change)])
        with at_most_calls(_MAX_CALLS):
            received = deferring.send(name, qtype, stream=stream)
        assert change == 1 or not received
        while deferring.pieces:
            with at_most_calls(_MAX_CALLS):
                deferring.run_piece()
        assert rcode(read(received[0])) == rcode(ask(deferring.server, name, qtype, stream=stream))


def test_small_services_are_answered_at_once() -> None:
    deferring = Deferring(large(100, dns_sd=True, reverse=True))
    assert all(deferring.send(name, qtype) for name, qtype in QUERIES)


def test_queries_for_other_services_do_not_wait() -> None:
    deferring = Deferring(large())
    deferring.server.apply(put("api.staging", ["10.1.0.1:80"]))
    received = deferring.send(WEB)
    assert data(read(deferring.send("api.staging.discovery")[0])) == ["10.1.0.1"]
    assert not received
    deferring.run()
    assert received


def test_each_waiting_query_gets_the_next_member() -> None:
    deferring = Deferring(large(2000))
    waiting = [deferring.send(WEB) for _ in range(100)]
    assert not any(waiting)
    deferring.run()
    assert len({data(read(received[0]))[0] for received in waiting}) == 100


def test_a_response_has_the_changes_that_were_made_while_it_was_deferred() -> None:
    deferring = Deferring(large())
    names = [(WEB, "SRV"), ("m9999.web.staging.discovery", "A"), ("m5.web.staging.discovery", "A")]
    waiting = [deferring.send(name, qtype, stream=True) for name, qtype in names]
    deferring.run_piece()
    deferring.server.change("web.staging", [member(9999, "10.9.9.9:80")], ["member_0000000005"])
    deferring.run_piece()
    deferring.server.expire(100.0)
    deferring.run()
    assert [rcode(read(received[0])) for received in waiting] == ["NOERROR", "NOERROR", "NXDOMAIN"]
    assert data(read(waiting[1][0])) == ["10.9.9.9"]


@pytest.mark.parametrize("is_recreated", [False, True])
def test_a_service_may_end_while_its_queries_wait(is_recreated: bool) -> None:
    deferring = Deferring(large())
    received = deferring.send(WEB)
    deferring.run_piece()
    deferring.server.drop("web.staging")
    if is_recreated:
        deferring.server.apply(put("web.staging", ["10.9.9.9:80"]))
    deferring.run()
    assert records(read(received[0])) == (("NOERROR", ["10.9.9.9"]) if is_recreated else ("NXDOMAIN", []))


def test_a_member_whose_label_becomes_a_service_while_queries_wait_has_another_label() -> None:
    deferring = Deferring(large(600))
    received = deferring.send("m5.web.staging.discovery")
    deferring.run_piece()
    deferring.server.apply(put("m5.web.staging", ["10.9.9.9:80"]))
    deferring.run()
    assert data(read(received[0])) == ["10.9.9.9"]
    targets = {text.split()[-1] for text in data(deferring.answer(WEB, "SRV", stream=True))}
    assert f"m4.{WEB}." in targets
    assert f"m5.{WEB}." not in targets


def test_constant_changes_delay_a_response_only_a_few_times() -> None:
    deferring = Deferring(large())
    received = deferring.send(WEB)
    pieces = 0
    while not received:
        if not deferring.server.zone.steps.is_unfinished(KEY):
            number = 5000 + pieces
            deferring.server.change("web.staging", [member(number + at, "10.9.9.9:80") for at in range(600)])
        deferring.run_piece()
        pieces += 1
    assert pieces < 100 * MAX_ATTEMPTS
    assert len(received) == 1


def test_if_too_many_queries_wait_the_work_is_finished_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferred_answers, "MAX_WAITING", 10)
    deferring = Deferring(large())
    waiting = [deferring.send(WEB) for _ in range(10)]
    assert not any(waiting)
    assert data(read(deferring.send(WEB)[0]))
    assert deferring.answers.waiting == 10
    deferring.run()
    assert all(len(received) == 1 for received in waiting)


def test_an_error_in_a_step_costs_only_the_queries_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    server = large()
    failures: list[bytes] = []
    for cache in server.authority.caches:
        monkeypatch.setattr(cache, "_on_error", lambda query, _: failures.append(query))
    deferring = Deferring(server)
    with monkeypatch.context() as broken:
        broken.setattr(service_names, "number_of", lambda _name, _prefix: 1 / 0)
        assert rcode(read(deferring.send(WEB)[0])) == "SERVFAIL"
    assert len(failures) == 1
    received = deferring.send(WEB)
    deferring.run_piece()
    with monkeypatch.context() as broken:
        broken.setattr(service_names, "hash_label", lambda _name: 1 / 0)
        broken.setattr(service_names, "unresolved_hosts", lambda _member: 1 / 0)
        while not deferring.errors:
            deferring.run_piece()
    while deferring.pieces:
        deferring.run_piece()
    assert rcode(read(received[0])) == "NOERROR"
    deferring.errors.clear()
    assert len(data(deferring.answer(WEB, stream=True))) == 3000
    assert failures == [query(WEB).to_wire()[2:]]


def test_a_dropped_view_is_freed_in_pieces() -> None:
    server, members = large(3000), 3000
    deferring = Deferring(server)
    for qtype in ("A", "SRV", "TXT"):
        deferring.answer(WEB, qtype)
    server.authority.forget_all()
    server.zone.view(KEY)
    before = count_alive(LabeledMember)
    server.drop("web.staging")
    assert count_alive(LabeledMember) == before
    pieces = 0
    while deferring.pieces:
        left = count_alive(LabeledMember)
        deferring.run_piece()
        assert left - count_alive(LabeledMember) <= RELEASED_AT_ONCE
        pieces += 1
    assert count_alive(LabeledMember) == before - members
    assert pieces > members // RELEASED_AT_ONCE


def test_a_view_that_is_evicted_is_freed_in_pieces() -> None:
    server = Server({f"s{number}.staging": many(26_000) for number in range(2)})
    deferring = Deferring(server)
    deferring.answer("s0.staging.discovery")
    deferring.answer("s1.staging.discovery")
    view = weakref.ref(server.zone.view((b"s1", *KEY[1:])))
    deferring.send("s0.staging.discovery", "SRV")
    deferring.run()
    assert view() is None


def test_a_dropped_view_is_freed_without_garbage_collection() -> None:
    deferring = Deferring(large(1000, dns_sd=True, reverse=True))
    for name, qtype in QUERIES:
        deferring.answer(name, qtype)
        deferring.answer(name, qtype, stream=True)
    view = weakref.ref(deferring.server.zone.view(KEY))
    gc.collect()
    gc.disable()
    try:
        deferring.server.drop("web.staging")
        deferring.run()
        assert view() is None
    finally:
        gc.enable()


@given(
    steps=st.lists(
        st.one_of(
            changes_of_services,
            st.sampled_from([(WEB, "A"), (WEB, "SRV"), (WEB, "TXT"), (f"m1.{WEB}", "A"), (f"s1.{WEB}", "A")]),
            st.sampled_from(
                [
                    (f"_b._tcp.{WEB}", "SRV"),
                    ("_web._tcp.staging.discovery", "PTR"),
                    (f"nope.{WEB}", "A"),
                    ("1.0.0.10.in-addr.arpa", "PTR"),
                ]
            ),
            st.integers(1, 12),
        ),
        max_size=30,
    )
)
@settings(max_examples=200, deadline=None)
def test_a_deferred_response_is_that_of_a_new_server(steps: list[Change | tuple[str, str] | int]) -> None:
    """With the shortest possible pieces, changes and queries come between any two steps."""
    deferring = Deferring(Server(dns_sd=True, reverse=True), work_per_piece=1)
    server = deferring.server
    server.zone.steps.work_at_once = 1
    waiting: list[tuple[str, str, list[bytes]]] = []
    for now, step in enumerate(steps):
        if isinstance(step, int):
            for _ in range(min(step, len(deferring.pieces))):
                deferring.run_piece()
        elif isinstance(step, tuple):
            waiting.append((*step, deferring.send(*step)))
        else:
            server.apply(step, float(now))
        check(server, waiting)
    while deferring.pieces:
        deferring.run_piece()
        check(server, waiting)
    assert deferring.errors == []
    assert waiting == []


def check(server: Server, waiting: list[tuple[str, str, list[bytes]]]) -> None:
    """Compare the responses that have arrived with those of a new server, and remove them."""
    arrived = [each for each in waiting if each[2]]
    waiting[:] = [each for each in waiting if not each[2]]
    if not arrived:
        return
    new = Server(dns_sd=True, reverse=True)
    for change in server.table.contents():
        new.apply(change)
    for key, service in server.table.services.items():
        new.table.services[key].departed.update(service.departed)
    for name, qtype, received in arrived:
        assert len(received) == 1
        assert records(read(received[0])) == records(ask(new, name, qtype)), (name, qtype)


@pytest.mark.parametrize("batched", [None, False])
def test_clients_over_udp_and_tcp_receive_deferred_responses(batched: bool | None) -> None:
    server = large(dns_sd=True)
    errors: list[Exception] = []
    with serving(
        lambda message, stream: server.respond(message, stream=stream),
        datagrams=server.datagrams,
        streams=server.streams,
        batched=batched,
    ) as running:
        steps = server.zone.steps
        running.call(lambda: DeferredAnswers(steps, deferrer(), errors.append))
        host, port = running.at
        assert len(data(dns.query.udp(query(WEB, "SRV"), host, 10.0, port, one_rr_per_rrset=True))) > 5
        response = dns.query.tcp(query(WEB, "TXT"), host, 10.0, port, one_rr_per_rrset=True)
        assert len(data(response)) > 300
        assert errors == []


def test_many_records_are_the_same_as_those_of_a_server_that_does_all_work_at_once() -> None:
    members = [
        member(at, text, weight=1 + at % 7, additional={"admin": text}, shard=at)
        for at, text in enumerate(many(1200))
    ]
    deferring = Deferring(Server({"web.staging": members}, dns_sd=True, seed=3))
    at_once = Server({"web.staging": members}, dns_sd=True, seed=3)
    for name, qtype in QUERIES[:-1]:
        for _ in range(3):
            assert data(deferring.answer(name, qtype, stream=True)) == data(
                ask(at_once, name, qtype, stream=True)
            )
