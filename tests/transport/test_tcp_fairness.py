"""TCP with many greedy clients: turns, slow readers, and the cost of an internal error."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.files import file_descriptors_exhausted
from tests.support.waiting import eventually
from tests.transport.helpers import Running, echo, serving
from tests.transport.tcp_client import SECONDS, TcpClient, framed

LONG_ANSWER = 60_000


def long_answers(message: bytes, *, stream: bool) -> bytes:  # noqa: ARG001 - the protocol's signature
    return message.ljust(LONG_ANSWER, b".")


@contextlib.contextmanager
def held(server: Running) -> Iterator[None]:
    """Block the loop, so that everything sent within the block has arrived when it continues."""
    release = threading.Event()
    server.loop.call_soon_threadsafe(release.wait, SECONDS)
    try:
        yield
    finally:
        release.set()


def count_files() -> int:
    """The number of open file descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def between_rounds(server: Running, count: Callable[[], int]) -> Callable[[], int]:
    """The largest increase of `count` between two rounds of the loop."""
    most = before = 0

    def look() -> None:
        nonlocal most, before
        now = count()
        most, before = max(most, now - before), now
        server.loop.call_soon(look)

    server.call(look)
    return lambda: most


# -- bursts and turns ---------------------------------------------------------------------------------------


def test_dns_27_the_responses_to_a_burst_leave_in_one_write() -> None:
    with serving(echo) as server, TcpClient(server) as client:
        for _ in range(20):
            client.send(*[b"question"] * 20)
            assert client.socket.recv(65536) == framed(b"question:tcp") * 20


def test_each_response_is_the_next_one_of_its_query() -> None:
    turns = [itertools.cycle([b":1", b":2", b":3"]), itertools.cycle([b":a", b""])]
    by_query = {b"numbers": turns[0], b"letters": turns[1]}
    with serving(echo, streams=by_query) as server, TcpClient(server) as client:
        client.send(b"id" + b"numbers", b"no" + b"letters", b"ID" + b"numbers", b"NO" + b"letters")
        client.send(b"xx" + b"numbers", b"yy" + b"letters", b"zz" + b"numbers")
        answers = [client.answer() for _ in range(6)]
    assert answers == [b"id:1", b"no:a", b"ID:2", b"xx:3", b"yy:a", b"zz:1"]


def test_a_long_pipeline_yields_after_each_burst() -> None:
    answered = 0

    def respond(message: bytes, *, stream: bool) -> bytes | None:  # noqa: ARG001 - the protocol's signature
        nonlocal answered
        answered += 1
        return None

    count = 100_000
    with serving(respond) as server, TcpClient(server) as client:
        most = between_rounds(server, lambda: answered)
        client.send(*[b"\0\0query"] * count)
        eventually(lambda: answered == count, 60.0)
        assert 0 < most() <= 250  # new ones of 20 µs each would take 5 ms


def test_many_clients_do_not_make_a_turn_longer_and_all_are_served() -> None:
    """Each burst takes longer than a turn may, so that no turn has two of them."""
    received: list[bytes] = []

    def respond(message: bytes, *, stream: bool) -> bytes:
        if message not in received[-1:]:
            time.sleep(0.002)
        received.append(message)
        return echo(message, stream=stream)

    names = [b"\0\0client %02d" % number for number in range(30)]
    with serving(respond) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(TcpClient(server)) for _ in names]
        eventually(lambda: server.tcp.connection_count == len(clients))
        bursts = between_rounds(server, lambda: sum(1 for _ in itertools.groupby(received.copy())))
        with held(server):
            for client, name in zip(clients, names, strict=True):
                client.send(*[name] * 400)
        for client, name in zip(clients, names, strict=True):
            assert [client.answer() for _ in range(400)] == [name + b":tcp"] * 400
        order = [name for name, _ in itertools.groupby(received)]
        assert sorted(order[: len(names)]) == names
        assert bursts() <= 2


# -- slow readers -------------------------------------------------------------------------------------------


def test_data_that_waits_for_a_slow_reader_is_limited() -> None:
    with serving(long_answers) as server, TcpClient(server, receive_buffer=4096) as client:
        client.send(*[b"question"] * 200)
        waiting = eventually(lambda: server.call(lambda: server.tcp.unsent_bytes))
        assert waiting <= 1 << 17
        for _ in range(200):
            assert client.answer() == b"question".ljust(LONG_ANSWER, b".")


def test_a_stopped_server_still_sends_pending_responses() -> None:
    with serving(long_answers) as server, TcpClient(server, receive_buffer=4096) as client:
        client.send(*[b"question"] * 100)
        eventually(lambda: server.call(lambda: server.tcp.unsent_bytes))
        files = count_files()
        server.call(server.tcp.stop)
        received = 0
        while (answer := client.answer()) is not None:
            assert answer == b"question".ljust(LONG_ANSWER, b".")
            received += 1
        assert 0 < received < 100
        assert eventually(lambda: count_files() == files - 2)  # the connection and the selector are closed


# -- internal errors and exhausted resources ----------------------------------------------------------------


@pytest.mark.parametrize("failure", [ZeroDivisionError(), BlockingIOError(), "over", "too long"], ids=repr)
def test_an_internal_error_costs_one_connection_and_is_logged_once(failure: Exception | str) -> None:
    class FailingLookup(dict[bytes, Iterator[bytes]]):
        def __missing__(self, query: bytes) -> Iterator[bytes]:
            if query == b"right":
                return itertools.repeat(b"answer")
            if isinstance(failure, Exception):
                raise failure
            return iter(()) if failure == "over" else itertools.repeat(bytes(65_534))

    with capture_logs() as logs, serving(echo, streams=FailingLookup()) as server, TcpClient(server) as other:
        for _ in range(3):
            with TcpClient(server) as client:
                client.send(b"idright")
                assert client.answer() == b"idanswer"
                client.send(b"idwrong")
                assert client.answer() is None
        other.send(b"idright")
        assert other.answer() == b"idanswer"
        assert server.call(lambda: server.tcp.connection_count) == 1
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("tcp_query_failed", "error")]


def test_dns_30_a_response_of_the_maximum_length() -> None:
    with (
        serving(echo, streams={b"query": itertools.repeat(bytes(65_533))}) as server,
        TcpClient(server) as client,
    ):
        client.send(b"idquery")
        assert client.answer() == b"id" + bytes(65_533)


def test_without_free_files_the_longest_idle_connection_is_closed() -> None:
    with serving(echo) as server, contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(TcpClient(server)) for _ in range(2))
        for client in (first, second):
            client.send(b"question")
            assert client.answer() == b"question:tcp"
        with held(server):
            newest = stack.enter_context(TcpClient(server))
            stack.enter_context(file_descriptors_exhausted())
        newest.send(b"question")
        assert newest.answer() == b"question:tcp"
        assert first.answer() is None
        assert second.is_open


def test_without_free_files_and_connections_it_retries_later() -> None:
    """It does not accept again and again in the meantime, which would take all of the processor."""
    with serving(echo, accept_retry_seconds=0.1) as server:
        full = contextlib.ExitStack()
        with held(server):
            newest = TcpClient(server)
            full.enter_context(file_descriptors_exhausted())
        with newest:
            begun, used = time.monotonic(), server.call(time.thread_time)
            time.sleep(0.35)  # three attempts
            assert server.call(time.thread_time) - used < 0.1 * (time.monotonic() - begun)
            full.close()
            newest.send(b"question")
            assert newest.answer() == b"question:tcp"
