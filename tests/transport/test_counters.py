"""Counters of responses by class, and latencies, over UDP and TCP."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.waiting import eventually
from tests.transport.helpers import FILLER, echo, serving
from tests.transport.udp_client import udp_client
from zkdns.transport.codecs import UdpCodec
from zkdns.transport.contract import DeferredResponse
from zkdns.transport.counters import LATENCY_BUCKETS, NOT_COUNTED, Counters

MANY = 300


class Classified(dict[bytes, Iterator[bytes]]):
    """Responds with the first byte of a query as the class. Queries may end in `later` or `silent`."""

    def __missing__(self, key: bytes) -> Iterator[bytes]:
        query = UdpCodec.query(key)
        response = UdpCodec.response(FILLER + query, 0, query[0])
        if query.endswith(b"silent"):
            return itertools.repeat(b"")
        if query.endswith(b"later"):
            return itertools.repeat(DeferredResponse(lambda deliver, _: deliver(lambda: response)))
        self[key] = itertools.repeat(response)
        return self[key]


@given(st.lists(st.binary(max_size=3000), max_size=8))
def test_classes_are_counted_exactly_in_any_pieces(pieces: list[bytes]) -> None:
    counters = Counters()
    for piece in pieces:
        counters.add(piece, counters.computed, 1.0)
    whole = b"".join(pieces)
    expected = {each: whole.count(each) for each in set(whole) if each}
    assert counters.counts() == expected
    assert counters.counts() == expected  # reading changes nothing
    assert sum(counters.computed.counts) == counters.computed.seconds == sum(expected.values())


@given(st.lists(st.tuples(st.integers(0, 255), st.floats(0.0, 10.0)), max_size=50))
def test_a_single_response_is_counted_like_a_batch_of_one(noted: list[tuple[int, float]]) -> None:
    single, batches = Counters(), Counters()
    for response_class, seconds in noted:
        single.add_one(response_class, single.forwarded, seconds)
        batches.add(bytes((response_class,)), batches.forwarded, seconds)
    assert single.counts() == batches.counts()
    assert single.forwarded.counts == batches.forwarded.counts
    assert single.forwarded.seconds == batches.forwarded.seconds


@given(st.lists(st.tuples(st.floats(0.0, 10.0), st.integers(1, 64))))
def test_latencies_are_counted_in_their_buckets(noted: list[tuple[float, int]]) -> None:
    counters = Counters()
    for seconds, count in noted:
        counters.add(bytes((9,)) * count + bytes((NOT_COUNTED,)), counters.cached, seconds)
    ends = [0.0, *LATENCY_BUCKETS, float("inf")]
    expected = [
        sum(count for seconds, count in noted if begin < seconds <= end or (seconds == 0.0 and begin == 0.0))
        for begin, end in itertools.pairwise(ends)
    ]
    assert counters.cached.counts == expected
    assert counters.cached.seconds == pytest.approx(sum(seconds * count for seconds, count in noted))


@pytest.mark.parametrize("batched", [True, False])
def test_udp_responses_are_counted_once_with_class_and_latency(*, batched: bool) -> None:
    with serving(echo, datagrams=Classified(), batched=batched) as running, udp_client() as sock:
        counters = running.udp.counters
        with running.udp_stopped():
            for number in range(MANY // 3):
                sock.sendto(b"id" + bytes((1 + number % 2,)) + b"at once", running.at)
                sock.sendto(b"id\3later", running.at)
                sock.sendto(b"id\4silent", running.at)
        for _ in range(2 * MANY // 3):
            sock.recv(512)
        assert eventually(lambda: running.call(counters.counts) == {1: MANY // 6, 2: MANY // 6, 3: MANY // 3})
        assert sum(counters.forwarded.counts) == MANY // 3
        assert sum(counters.computed.counts) + sum(counters.cached.counts) == MANY // 3
        assert counters.forwarded.seconds > 0
        with running.udp_stopped():
            for _ in range(10):
                sock.sendto(b"id\1at once", running.at)
        for _ in range(10):
            sock.recv(512)
        eventually(lambda: running.call(counters.counts)[1] == MANY // 6 + 10)
        computed = sum(counters.computed.counts)
        assert (sum(counters.cached.counts) >= 10) == batched
        assert (computed == MANY // 3 + 10) == (not batched)


def test_tcp_responses_are_counted_without_silence() -> None:
    with (
        serving(
            lambda message, **_: message if b"silent" not in message else None, classify=_first
        ) as running,
        socket.create_connection(running.at, 5.0) as sock,
    ):
        for _ in range(50):
            sock.sendall(b"\0\5id\7!!" + b"\0\11id\6silent")
        received = b""
        while len(received) < 50 * 7:
            received += sock.recv(65536)
        eventually(lambda: running.call(running.tcp.counters.counts) == {7: 50})
        assert sum(running.tcp.counters.computed.counts) == 50


def _first(body: bytes) -> int:
    return body[0] if body else 0
