"""Baseline for the table benchmark: ZooKeeper and kazoo without zkdns.

python -m tests.bench.zookeeper_baseline read HOSTS ROOT     read the whole tree with multiRead
python -m tests.bench.zookeeper_baseline follow HOSTS ROOT   set a recursive watch; read at each event
"""

import signal
import sys
import threading
import time
from collections.abc import Callable

from kazoo.client import KazooClient

from zkdns.serverset.client import make_client
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

_BATCH = 200
_IN_FLIGHT = 4
_TIMEOUT = 60.0


def read_all(client: KazooClient, reads: list[tuple[int, str]]) -> list[Result]:
    """Read in batches of 200, with four batches in flight."""
    batches = [reads[start : start + _BATCH] for start in range(0, len(reads), _BATCH)]
    answers: list[list[Result]] = [[] for _ in batches]
    room = threading.Semaphore(_IN_FLIGHT)

    def on_answered(index: int) -> Callable[[list[Result], BaseException | None], None]:
        def store(results: list[Result], error: BaseException | None) -> None:
            assert error is None, error
            answers[index] = results
            room.release()

        return store

    for index, batch in enumerate(batches):
        room.acquire()
        send_request(client, MultiRead(batch), on_answered(index))
    for _ in range(_IN_FLIGHT):
        room.acquire()
    return [result for results in answers for result in results]


def read(client: KazooClient, root: str) -> None:
    """Print how long reading the whole tree takes in seconds, on an established connection."""
    started_at = time.monotonic()
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
    print(time.monotonic() - started_at, len(found), flush=True)


def follow(client: KazooClient, root: str) -> None:
    """Print path and monotonic time of each znode that was created and read."""
    ready = threading.Event()
    send_request(client, AddWatch(root), lambda _results, _error: ready.set())
    ready.wait(_TIMEOUT)
    print("ready", flush=True)
    signal.pause()  # until the benchmark kills this process


def main() -> None:
    command, hosts, root = sys.argv[1:]
    client = make_client(hosts)

    def on_event(kind: int, path: str) -> None:
        if kind == CREATED:

            def on_read(_results: list[Result], _error: BaseException | None) -> None:
                print(path, time.monotonic(), flush=True)

            send_request(client, MultiRead([(GET_DATA, path)]), on_read)

    if command == "follow":
        intercept_events(client, on_event)
    client.start(timeout=_TIMEOUT)
    {"read": read, "follow": follow}[command](client, root)
    client.stop()
    client.close()


if __name__ == "__main__":
    main()
