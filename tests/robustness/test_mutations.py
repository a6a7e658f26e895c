"""Twenty thousand mutated messages sent to a running server, with valid queries in between."""

from __future__ import annotations

import itertools
import random
import sys
from collections import Counter
from pathlib import Path

import dns.rcode
import pytest

from tests.bench.processes import resident_megabytes
from tests.robustness.mutations import Mutator, needs_response
from tests.robustness.two_parsers import parse_with_both
from tests.robustness.zkdns_server import (
    SEEDS,
    SIZES,
    VALID,
    WEB,
    WINDOW,
    client_socket,
    exchange,
    has_no_more_data,
    running_server,
    unusual_replies,
)
from tests.support.upstream import UpstreamServer
from zkdns.dns.edns import udp_limit
from zkdns.dns.message import BadQueryError, parse_query

pytestmark = pytest.mark.processes

COUNT = 20_000
FORWARDED = 5000
"""Fewer, since half of them go to the slow test upstream."""
MEGABYTES = 4.0
"""Maximum memory growth when the same messages are repeated. It is not 0, since the response cache stores
some nonexistent names only when they are queried again."""


def check_answer(message: bytes, answer: bytes) -> int:
    """Assert what is true of every response: opcode, size, question and syntax. Return its rcode."""
    assert answer[2] & 0x80
    assert answer[2] & 0x78 == message[2] & 0x78
    try:
        asked = parse_query(message)
    except BadQueryError:
        limit = 512
    else:
        limit = udp_limit(asked.edns)
        assert answer[12 : 12 + len(asked.question)] == asked.question
    assert len(answer) <= limit
    return int(parse_with_both(answer).rcode())


def check_valid(answer: bytes) -> None:
    """Assert that the response to the valid query has all its records."""
    response = parse_with_both(answer)
    assert response.rcode() == dns.rcode.NOERROR
    assert len(response.answer) == SIZES["web"]


def test_mutated_messages_are_answered_correctly_and_do_not_grow_memory(tmp_path: Path) -> None:
    messages = list(itertools.islice(Mutator(SEEDS, random.Random(1)), COUNT // 2))
    codes: Counter[int] = Counter()
    with running_server(tmp_path) as server, client_socket(server) as sock:
        worker = server.pid_of("worker")
        resident = []
        for is_checked in (True, False):
            for start in range(0, len(messages), WINDOW):
                window = dict(enumerate(messages[start : start + WINDOW]))
                answers = exchange(sock, {**window, WINDOW: VALID})
                check_valid(answers.pop(WINDOW))
                if is_checked:
                    codes.update(check_answer(window[number], answer) for number, answer in answers.items())
            resident.append(resident_megabytes(worker) if sys.platform == "linux" else 0.0)
        assert has_no_more_data(sock)
    assert resident[1] - resident[0] < MEGABYTES
    # All outcomes occurred: NOERROR, FORMERR, NXDOMAIN, NOTIMP, REFUSED, BADVERS, and no response.
    assert set(codes) == {0, 1, 3, 4, 5, 16}
    assert min(codes.values()) > 20
    assert sum(not needs_response(message) for message in messages) > 500


def test_mutated_messages_are_answered_correctly_with_forwarding(tmp_path: Path) -> None:
    messages = itertools.islice(Mutator(SEEDS, random.Random(2)), FORWARDED)
    codes: Counter[int] = Counter()
    with (
        UpstreamServer(unusual_replies) as upstream,
        running_server(tmp_path, upstream=upstream) as server,
        client_socket(server) as sock,
    ):
        for window in iter(lambda: dict(enumerate(itertools.islice(messages, WINDOW))), {}):
            answers = exchange(sock, {**window, WINDOW: VALID})
            check_valid(answers.pop(WINDOW))
            codes.update(check_answer(window[number], answer) for number, answer in answers.items())
        assert has_no_more_data(sock)
        assert server.lookup(WEB) == server.lookup(WEB, tcp=True)
        assert len(upstream.queries) > 300
    assert set(codes) >= {0, 1, 3, 4, 5, 16}


@pytest.mark.parametrize("size", [1500, 9000, 65_507])
def test_large_datagrams_are_answered_correctly(tmp_path: Path, size: int) -> None:
    rng = random.Random(size)
    heads = list(itertools.islice(Mutator(SEEDS, rng), 100))
    padded = [message.ljust(size, b"\0") for message in heads]
    random_tails = [message + rng.randbytes(size - len(message)) for message in heads]
    with running_server(tmp_path) as server, client_socket(server) as sock:
        for message in (*padded, *random_tails):
            answers = exchange(sock, {0: message, 1: VALID})
            check_valid(answers.pop(1))
            for answer in answers.values():
                check_answer(message, answer)
