"""Twenty thousand messages that nobody means, sent to a whole server between ordinary ones."""

from __future__ import annotations

import itertools
import random
import sys
from collections import Counter
from pathlib import Path

import dns.rcode
import pytest

from tests.bench.processes import resident_megabytes
from tests.robustness.mutations import Mutator, is_answered
from tests.robustness.reading import read_twice
from tests.robustness.scene import (
    SEEDS,
    SIZES,
    VALID,
    WEB,
    WINDOW,
    answers_oddly,
    asking,
    exchange,
    hears_nothing_more,
    serving,
)
from tests.support.upstream import UpstreamServer
from zkdns.dns.edns import udp_limit
from zkdns.dns.message import BadQueryError, parse_query

pytestmark = pytest.mark.processes

COUNT = 20_000
FORWARDED = 5000
"""Half of these go to an upstream, which takes its time."""
MEGABYTES = 4.0
"""That the same messages may take a second time: of names that nobody has some are remembered only then."""


def check_answer(message: bytes, answer: bytes) -> int:
    """What holds of the answer to any message; its response code."""
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
    return int(read_twice(answer).rcode())


def check_valid(answer: bytes) -> None:
    """That an ordinary query has what it should have."""
    response = read_twice(answer)
    assert response.rcode() == dns.rcode.NOERROR
    assert len(response.answer) == SIZES["web"]


def test_whatever_comes_is_answered_or_not_as_it_should_be_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    messages = list(itertools.islice(Mutator(SEEDS, random.Random(1)), COUNT // 2))
    codes: Counter[int] = Counter()
    with serving(tmp_path) as server, asking(server) as sock:
        worker = server.pid_of("worker")
        resident = []
        for is_checked in (True, False):
            for begun in range(0, len(messages), WINDOW):
                window = dict(enumerate(messages[begun : begun + WINDOW]))
                answers = exchange(sock, {**window, WINDOW: VALID})
                check_valid(answers.pop(WINDOW))
                if is_checked:
                    codes.update(check_answer(window[number], answer) for number, answer in answers.items())
            resident.append(resident_megabytes(worker) if sys.platform == "linux" else 0.0)
        assert hears_nothing_more(sock)
    assert resident[1] - resident[0] < MEGABYTES
    # Each way out of the rules was taken: NOERROR, FORMERR, NXDOMAIN, NOTIMP, REFUSED, BADVERS, silence.
    assert set(codes) == {0, 1, 3, 4, 5, 16}
    assert min(codes.values()) > 20
    assert sum(not is_answered(message) for message in messages) > 500


def test_with_forwarding_on_the_same_holds(tmp_path: Path) -> None:
    messages = itertools.islice(Mutator(SEEDS, random.Random(2)), FORWARDED)
    codes: Counter[int] = Counter()
    with (
        UpstreamServer(answers_oddly) as upstream,
        serving(tmp_path, upstream=upstream) as server,
        asking(server) as sock,
    ):
        for window in iter(lambda: dict(enumerate(itertools.islice(messages, WINDOW))), {}):
            answers = exchange(sock, {**window, WINDOW: VALID})
            check_valid(answers.pop(WINDOW))
            codes.update(check_answer(window[number], answer) for number, answer in answers.items())
        assert hears_nothing_more(sock)
        assert server.lookup(WEB) == server.lookup(WEB, tcp=True)
        assert len(upstream.queries) > 300
    assert set(codes) >= {0, 1, 3, 4, 5, 16}


@pytest.mark.parametrize("size", [1500, 9000, 65_507])
def test_datagrams_of_any_size_are_read_to_their_end(tmp_path: Path, size: int) -> None:
    dice = random.Random(size)
    begun = list(itertools.islice(Mutator(SEEDS, dice), 100))
    padded = [message.ljust(size, b"\0") for message in begun]
    drawn = [message + dice.randbytes(size - len(message)) for message in begun]
    with serving(tmp_path) as server, asking(server) as sock:
        for message in (*padded, *drawn):
            answers = exchange(sock, {0: message, 1: VALID})
            check_valid(answers.pop(1))
            for answer in answers.values():
                check_answer(message, answer)
