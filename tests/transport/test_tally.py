"""What servers count of their responses: each mark exactly, in batches or not, at once or later."""

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
from zkdns.transport.tally import LATENCY_BUCKETS, UNMARKED, Tally

MANY = 300


class Marked(dict[bytes, Iterator[bytes]]):
    """Answers with the first byte of a query as its mark; `later` and `silent` queries so."""

    def __missing__(self, key: bytes) -> Iterator[bytes]:
        query = UdpCodec.query(key)
        response = UdpCodec.response(FILLER + query, 0, query[0])
        if query.endswith(b"silent"):
            return itertools.repeat(b"")
        if query.endswith(b"later"):
            return itertools.repeat(DeferredResponse(lambda deliver: deliver(response)))
        self[key] = itertools.repeat(response)
        return self[key]


@given(st.lists(st.binary(max_size=3000), max_size=8))
def test_marks_are_counted_exactly_whatever_pieces_they_come_in(pieces: list[bytes]) -> None:
    tally = Tally()
    for piece in pieces:
        tally.add(piece, tally.made, 1.0)
    whole = b"".join(pieces)
    expected = {mark: whole.count(mark) for mark in set(whole) if mark}
    assert tally.counts() == expected
    assert tally.counts() == expected  # to look changes nothing
    assert sum(tally.made.counts) == tally.made.seconds == sum(expected.values())


@given(st.lists(st.tuples(st.floats(0.0, 10.0), st.integers(1, 64))))
def test_latencies_are_sorted_into_the_bucket_that_holds_them(noted: list[tuple[float, int]]) -> None:
    tally = Tally()
    for seconds, count in noted:
        tally.add(bytes((9,)) * count + bytes((UNMARKED,)), tally.remembered, seconds)
    ends = [0.0, *LATENCY_BUCKETS, float("inf")]
    expected = [
        sum(count for seconds, count in noted if begin < seconds <= end or (seconds == 0.0 and begin == 0.0))
        for begin, end in itertools.pairwise(ends)
    ]
    assert tally.remembered.counts == expected
    assert tally.remembered.seconds == pytest.approx(sum(seconds * count for seconds, count in noted))


@pytest.mark.parametrize("batched", [True, False])
def test_over_udp_each_response_is_counted_once_with_its_mark_and_its_wait(*, batched: bool) -> None:
    with serving(echo, datagrams=Marked(), batched=batched) as running, udp_client() as sock:
        tally = running.udp.tally
        with running.udp_stopped():
            for number in range(MANY // 3):
                sock.sendto(b"id" + bytes((1 + number % 2,)) + b"at once", running.at)
                sock.sendto(b"id\3later", running.at)
                sock.sendto(b"id\4silent", running.at)
        for _ in range(2 * MANY // 3):
            sock.recv(512)
        assert eventually(lambda: running.call(tally.counts) == {1: MANY // 6, 2: MANY // 6, 3: MANY // 3})
        assert sum(tally.later.counts) == MANY // 3
        assert sum(tally.made.counts) + sum(tally.remembered.counts) == MANY // 3
        assert tally.later.seconds > 0
        with running.udp_stopped():
            for _ in range(10):
                sock.sendto(b"id\1at once", running.at)
        for _ in range(10):
            sock.recv(512)
        eventually(lambda: running.call(tally.counts)[1] == MANY // 6 + 10)
        made = sum(tally.made.counts)
        assert (sum(tally.remembered.counts) >= 10) == batched
        assert (made == MANY // 3 + 10) == (not batched)


def test_over_tcp_each_answer_is_counted_and_silence_is_not() -> None:
    with (
        serving(
            lambda message, **_: message if b"silent" not in message else None, mark_of=_first
        ) as running,
        socket.create_connection(running.at, 5.0) as sock,
    ):
        for _ in range(50):
            sock.sendall(b"\0\5id\7!!" + b"\0\11id\6silent")
        received = b""
        while len(received) < 50 * 7:
            received += sock.recv(65536)
        eventually(lambda: running.call(running.tcp.tally.counts) == {7: 50})
        assert sum(running.tcp.tally.made.counts) == 50


def _first(body: bytes) -> int:
    return body[0] if body else 0
