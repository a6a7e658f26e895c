"""Yardsticks: what ZooKeeper and kazoo cost by themselves, each in a process of its own.

python -m tests.bench.bare read HOSTS ROOT     the whole tree by multiRead, nothing made of it
python -m tests.bench.bare follow HOSTS ROOT   a recursive watch, and a read at each event
"""

import signal
import sys
import threading
import time
from collections.abc import Callable

from kazoo.client import KazooClient
from zkdns.serverset.kazoo_ext import (
    CREATED,
    GET_CHILDREN,
    GET_DATA,
    AddWatch,
    MultiRead,
    Result,
    intercept_events,
    send_request,
)

from zkdns.serverset.client import make_client

_BATCH = 200
_IN_FLIGHT = 4
_TIMEOUT = 60.0


def read_all(client: KazooClient, reads: list[tuple[int, str]]) -> list[Result]:
    """Ask in batches of 200, four of them at a time."""
    batches = [reads[start : start + _BATCH] for start in range(0, len(reads), _BATCH)]
    answers: list[list[Result]] = [[] for _ in batches]
    room = threading.Semaphore(_IN_FLIGHT)

    def answered(index: int) -> Callable[[list[Result], BaseException | None], None]:
        def take(results: list[Result], error: BaseException | None) -> None:
            assert error is None, error
            answers[index] = results
            room.release()

        return take

    for index, batch in enumerate(batches):
        room.acquire()
        send_request(client, MultiRead(batch), answered(index))
    for _ in range(_IN_FLIGHT):
        room.acquire()
    return [result for results in answers for result in results]


def read(client: KazooClient, root: str) -> None:
    """Print the seconds that reading everything takes, from a connection that stands."""
    begun = time.monotonic()
    paths = [root]
    for _ in ("environments", "services", "members"):
        listed = read_all(client, [(GET_CHILDREN, path) for path in paths])
        paths = [
            f"{path}/{name}"
            for path, names in zip(paths, listed, strict=True)
            if isinstance(names, list)
            for name in names
        ]
    found = read_all(client, [(GET_DATA, path) for path in paths])
    print(time.monotonic() - begun, len(found), flush=True)


def follow(client: KazooClient, root: str) -> None:
    """Print path and moment of each znode that was created and read."""
    ready = threading.Event()
    send_request(client, AddWatch(root), lambda _results, _error: ready.set())
    ready.wait(_TIMEOUT)
    print("ready", flush=True)
    signal.pause()  # until whoever started this has enough, and kills it


def main() -> None:
    what, hosts, root = sys.argv[1:]
    client = make_client(hosts)

    def heard(kind: int, path: str) -> None:
        if kind == CREATED:

            def told(_results: list[Result], _error: BaseException | None) -> None:
                print(path, time.monotonic(), flush=True)

            send_request(client, MultiRead([(GET_DATA, path)]), told)

    if what == "follow":
        intercept_events(client, heard)
    client.start(timeout=_TIMEOUT)
    {"read": read, "follow": follow}[what](client, root)
    client.stop()
    client.close()


if __name__ == "__main__":
    main()
