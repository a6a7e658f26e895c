"""Changes for the fleet benchmark: ephemeral members at a steady rate, and when they were acknowledged."""

from __future__ import annotations

import itertools
import time
from typing import NamedTuple

from kazoo.client import KazooClient
from kazoo.interfaces import IAsyncResult

from tests.bench.table import ROOT
from tests.serverset.sync_helpers import data
from tests.support.waiting import eventually

NETWORK = "10.200"
"""All addresses of written members begin with it, and no others."""
_TIMEOUT = 15.0


class Written(NamedTuple):
    """A member that ZooKeeper has acknowledged."""

    path: str
    address: str
    acknowledged_at: float
    """Monotonic time in seconds."""


class Writer:
    """Adds members, each with another address, and removes them all at once.

    Args:
        hosts: addresses of ZooKeeper.
        services: the members are distributed over that many services.
    """

    def __init__(self, hosts: str, services: int) -> None:
        self._hosts = hosts
        self._services = itertools.cycle(range(services))
        self._numbers = itertools.count()
        self._client: KazooClient | None = None

    def write(self, rate: float, seconds: float) -> list[Written]:
        """Add members at a steady rate for some seconds, at least one, and wait for the acknowledgements."""
        if self._client is None:
            self._client = KazooClient(self._hosts)
            self._client.start()
        written: list[Written] = []
        failures: list[BaseException] = []
        count = max(round(rate * seconds), 1)
        started_at = time.monotonic()
        for done, number in enumerate(itertools.islice(self._numbers, count)):
            time.sleep(max(0.0, started_at + done / rate - time.monotonic()))
            address = f"{NETWORK}.{number // 250 % 250}.{number % 250}"

            def on_result(result: IAsyncResult, address: str = address) -> None:
                if result.exception is not None:
                    failures.append(result.exception)
                else:
                    written.append(Written(result.value, address, time.monotonic()))

            path = f"{ROOT}/staging/service{next(self._services)}/member_"
            created = self._client.create_async(path, data(address), ephemeral=True, sequence=True)
            created.rawlink(on_result)
        time.sleep(max(0.0, started_at + count / rate - time.monotonic()))
        eventually(lambda: len(written) + len(failures) == count, _TIMEOUT)
        if failures:
            raise RuntimeError(f"a write failed: {failures[0]!r}")
        return written

    def remove(self) -> None:
        """End the session, and with it all members that were added."""
        client, self._client = self._client, None
        if client is not None:
            client.stop()
            client.close()
