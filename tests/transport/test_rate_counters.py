"""Counters of queries by network, which several workers share."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from zkdns.transport.rate_counters import EXEMPT, SLOTS, RateCounters, create_shared_memory

KEY = b"the key of all workers"


@pytest.fixture
def shared() -> Iterator[int]:
    number = create_shared_memory()
    if number is None:
        pytest.skip("this system has no memory without a file that processes can share")
    yield number
    os.close(number)


def test_only_networks_over_the_limit_are_returned() -> None:
    counters = RateCounters(KEY)
    assert counters.count([1, 2, 1, EXEMPT, EXEMPT, EXEMPT], 7, 2) == frozenset()
    assert counters.count([1, 2], 7, 2) == {1}
    assert counters.count([2], 7, 2) == {2}
    assert counters.count([1, 2], 8, 2) == frozenset()


def test_exempt_queries_are_not_counted() -> None:
    assert RateCounters(KEY).count([EXEMPT] * 100, 7, 1) == frozenset()


def test_all_workers_have_one_limit(shared: int) -> None:
    """Whether the queries reach one worker or all."""
    first, second, third = (RateCounters(KEY, shared, row) for row in range(3))
    assert first.count([5] * 4, 1, 10) == second.count([5] * 4, 1, 10) == frozenset()
    assert third.count([5, 5, 6], 1, 10) == frozenset()
    assert third.count([5, 6], 1, 10) == {5}
    assert first.count([5], 1, 10) == second.count([5], 1, 10) == {5}
    assert first.count([5], 2, 10) == frozenset()
    assert second.count([5] * 10, 2, 10) == {5}


def test_a_worker_that_starts_later_is_counted_from_the_next_second(shared: int) -> None:
    first = RateCounters(KEY, shared, 0)
    first.count([5], 1, 10)
    second = RateCounters(KEY, shared, 1)
    assert second.count([5] * 10, 1, 10) == {5}
    assert second.count([5] * 10, 2, 10) == frozenset()
    assert first.count([5], 2, 10) == {5}


def test_networks_have_the_same_slot_in_all_workers_and_another_one_with_another_key() -> None:
    networks = [number.to_bytes(3) for number in range(1000)]
    slots = [RateCounters(KEY).slot_of(network) for network in networks]
    assert slots == [RateCounters(KEY).slot_of(network) for network in networks]
    assert slots != [RateCounters(b"other").slot_of(network) for network in networks]
    assert all(0 <= slot < SLOTS for slot in slots)
    assert len(set(slots)) > 950


_COUNT = """
import sys
from zkdns.transport.rate_counters import RateCounters
counters = RateCounters(b"key", int(sys.argv[1]))
counters.count([9], 1, 10)
print("ready", flush=True)
sys.stdin.readline()
print(sorted(counters.count([5] * 4, 2, 10)), flush=True)
sys.stdin.readline()
"""


def test_each_process_claims_a_row_and_its_end_frees_it(shared: int) -> None:
    with contextlib.ExitStack() as stack:
        workers = []
        for _ in range(3):
            command = [sys.executable, "-c", _COUNT, str(shared)]
            worker = stack.enter_context(
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[shared]
                )
            )
            stack.callback(worker.kill)
            workers.append(worker)
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        counted = []
        for worker in workers:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
            counted.append(worker.stdout.readline())
        assert counted == ["[]\n", "[]\n", "[5]\n"]
        workers[1].kill()
        workers[1].wait()
        successor = RateCounters(b"key", shared)  # takes the row of the second one
        assert successor.count([5], 2, 12) == {5}
        assert successor.count([5], 3, 12) == frozenset()
