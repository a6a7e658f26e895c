"""TCP between many who want much: whose turn it is, what waits for whom, and what a mistake costs."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from structlog.testing import capture_logs

from tests.support.files import file_descriptors_exhausted
from tests.support.waiting import eventually
from tests.transport.asker import SECONDS, Asker, framed
from tests.transport.helpers import Running, echo, serving
from zkdns.transport import Answers

LONG_ANSWER = 60_000


def long_answers(message: bytes, *, stream: bool) -> bytes:  # noqa: ARG001 - the protocol's signature
    return message.ljust(LONG_ANSWER, b".")


@contextlib.contextmanager
def answering(answers: Answers) -> Iterator[Running]:
    """Serve these over TCP, to all who connect from now on."""
    with serving(echo) as server:
        server.tcp._answers = answers
        yield server


@contextlib.contextmanager
def held(server: Running) -> Iterator[None]:
    """Keep the loop from working, so that what is sent meanwhile has arrived when it goes on."""
    release = threading.Event()
    server.loop.call_soon_threadsafe(release.wait, SECONDS)
    try:
        yield
    finally:
        release.set()


def between_rounds(server: Running, count: Callable[[], int]) -> Callable[[], int]:
    """How far `count` has risen at most between two rounds of the loop."""
    most = before = 0

    def look() -> None:
        nonlocal most, before
        now = count()
        most, before = max(most, now - before), now
        server.loop.call_soon(look)

    server.call(look)
    return lambda: most


# -- bursts and turns ---------------------------------------------------------------------------------------


def test_dns_27_the_answers_of_a_burst_leave_in_one_write() -> None:
    with serving(echo) as server, Asker(server) as asker:
        for _ in range(20):
            asker.send(*[b"question"] * 20)
            assert asker.socket.recv(65536) == framed(b"question:tcp") * 20


def test_each_answer_is_the_next_one_of_its_query() -> None:
    turns = [itertools.cycle([b":1", b":2", b":3"]), itertools.cycle([b":a", b""])]
    by_query = {b"numbers": turns[0], b"letters": turns[1]}
    with answering(by_query) as server, Asker(server) as asker:
        asker.send(b"id" + b"numbers", b"no" + b"letters", b"ID" + b"numbers", b"NO" + b"letters")
        asker.send(b"xx" + b"numbers", b"yy" + b"letters", b"zz" + b"numbers")
        answers = [asker.answer() for _ in range(6)]
    assert answers == [b"id:1", b"no:a", b"ID:2", b"xx:3", b"yy:a", b"zz:1"]


def test_a_long_pipeline_gives_others_a_turn_after_each_burst() -> None:
    answered = 0

    def respond(message: bytes, *, stream: bool) -> bytes | None:  # noqa: ARG001 - the protocol's signature
        nonlocal answered
        answered += 1
        return None

    count = 100_000
    with serving(respond) as server, Asker(server) as asker:
        most = between_rounds(server, lambda: answered)
        asker.send(*[b"\0\0query"] * count)
        eventually(lambda: answered == count, 60.0)
        assert 0 < most() <= 250  # new ones of 20 µs each would take 5 ms


def test_many_who_ask_do_not_make_a_turn_longer_and_nobody_is_left_out() -> None:
    """Each burst here takes longer than a turn may, so that none has two of them."""
    heard: list[bytes] = []

    def respond(message: bytes, *, stream: bool) -> bytes:
        if message not in heard[-1:]:
            time.sleep(0.002)
        heard.append(message)
        return echo(message, stream=stream)

    names = [b"\0\0asker %02d" % number for number in range(30)]
    with serving(respond) as server, contextlib.ExitStack() as stack:
        askers = [stack.enter_context(Asker(server)) for _ in names]
        eventually(lambda: len(server.tcp._connections) == len(askers))
        bursts = between_rounds(server, lambda: sum(1 for _ in itertools.groupby(heard.copy())))
        with held(server):
            for asker, name in zip(askers, names, strict=True):
                asker.send(*[name] * 400)
        for asker, name in zip(askers, names, strict=True):
            assert [asker.answer() for _ in range(400)] == [name + b":tcp"] * 400
        order = [name for name, _ in itertools.groupby(heard)]
        assert sorted(order[: len(names)]) == names
        assert bursts() <= 2


# -- who does not read --------------------------------------------------------------------------------------


def test_what_waits_for_a_slow_reader_is_bounded() -> None:
    with serving(long_answers) as server, Asker(server, receive_buffer=4096) as asker:
        asker.send(*[b"question"] * 200)
        connection = eventually(lambda: server.call(lambda: next(iter(server.tcp._connections))))
        eventually(lambda: connection._unsent)
        waiting = server.call(lambda: len(connection._unsent))
        assert 0 < waiting <= 1 << 17
        for _ in range(200):
            assert asker.answer() == b"question".ljust(LONG_ANSWER, b".")


def test_a_stopped_server_still_sends_what_it_had_answered() -> None:
    with serving(long_answers) as server, Asker(server, receive_buffer=4096) as asker:
        asker.send(*[b"question"] * 100)
        eventually(lambda: any(connection._unsent for connection in server.tcp._connections))
        server.call(server.tcp.stop)
        received = 0
        while (answer := asker.answer()) is not None:
            assert answer == b"question".ljust(LONG_ANSWER, b".")
            received += 1
        assert 0 < received < 100
        eventually(lambda: server.tcp._selector is None)


# -- mistakes, and a full machine ---------------------------------------------------------------------------


@pytest.mark.parametrize("mistake", [ZeroDivisionError(), BlockingIOError(), "over", "too long"], ids=repr)
def test_a_mistake_in_answering_costs_one_connection_and_is_told_once(mistake: Exception | str) -> None:
    class Mistaken(dict[bytes, Iterator[bytes]]):
        def __missing__(self, query: bytes) -> Iterator[bytes]:
            if query == b"right":
                return itertools.repeat(b"answer")
            if isinstance(mistake, Exception):
                raise mistake
            return iter(()) if mistake == "over" else itertools.repeat(bytes(65_534))

    with capture_logs() as told, answering(Mistaken()) as server, Asker(server) as other:
        for _ in range(3):
            with Asker(server) as asker:
                asker.send(b"idright")
                assert asker.answer() == b"idanswer"
                asker.send(b"idwrong")
                assert asker.answer() is None
        other.send(b"idright")
        assert other.answer() == b"idanswer"
        assert server.call(lambda: len(server.tcp._connections)) == 1
    assert [(entry["event"], entry["log_level"]) for entry in told] == [("tcp_query_failed", "error")]


def test_dns_30_the_longest_answer_that_there_can_be() -> None:
    with answering({b"query": itertools.repeat(bytes(65_533))}) as server, Asker(server) as asker:
        asker.send(b"idquery")
        assert asker.answer() == b"id" + bytes(65_533)


def test_without_a_file_left_the_longest_idle_connection_gives_way() -> None:
    with serving(echo) as server, contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(Asker(server)) for _ in range(2))
        for asker in (first, second):
            asker.send(b"question")
            assert asker.answer() == b"question:tcp"
        with held(server):
            newest = stack.enter_context(Asker(server))
            stack.enter_context(file_descriptors_exhausted())
        newest.send(b"question")
        assert newest.answer() == b"question:tcp"
        assert first.answer() is None
        assert second.is_open


def test_without_a_file_left_and_without_a_connection_it_tries_again_later() -> None:
    with serving(echo) as server:
        full = contextlib.ExitStack()
        with held(server):
            newest = Asker(server)
            full.enter_context(file_descriptors_exhausted())
        with newest:
            eventually(lambda: server.call(lambda: server.tcp._sock not in selected(server)))
            full.close()
            newest.send(b"question")
            assert newest.answer() == b"question:tcp"


def selected(server: Running) -> list[object]:
    """What the server waits for."""
    assert server.tcp._selector is not None
    return [key.fileobj for key in server.tcp._selector.get_map().values()]
