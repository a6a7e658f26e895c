"""The readings that `zkdns top` compares, and the thread that takes one each second."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec

from zkdns.admin.api_types import ServiceLine
from zkdns.admin.client import ApiClient, RefusedError, UnreachableError
from zkdns.admin.status import StatsReading, TableStatus, TrafficReading
from zkdns.cli.top_rates import Rates, is_comparable, rates_between, service_rates
from zkdns.cli.top_state import View

SECONDS = 1.0
"""Time between two readings."""
_WITH_TRAFFIC: frozenset[View] = frozenset({"services", "names"})


class Unavailable(msgspec.Struct, frozen=True):
    """The stats cannot be read now."""

    sentence: str
    is_new: bool


class _Reading(msgspec.Struct, frozen=True):
    stats: StatsReading
    traffic: TrafficReading | None


class Readings:
    """The last readings of a server.

    Args:
        client: a client of the server.
        window: number of readings that the rates cover.
    """

    def __init__(self, client: ApiClient, window: int) -> None:
        self._client = client
        self._readings: deque[_Reading] = deque(maxlen=window)
        self._lines: dict[str, ServiceLine] = {}
        self._last_change = 0
        self._table: TableStatus | None = None
        self._failing_since: str | None = None

    def read(self, view: View) -> Rates | Unavailable | None:
        """Take a reading, and return the rates since the first one. None: this is the first one.

        Args:
            view: the view that the rates are for.
        """
        try:
            return self._take(view)
        except (UnreachableError, RefusedError) as error:
            is_new = self._failing_since is None
            self._failing_since = self._failing_since or time.strftime("%H:%M:%S")
            self._readings.clear()
            self._forget_services()
            return Unavailable(f"{error}; trying again, since {self._failing_since}", is_new)

    def _take(self, view: View) -> Rates | None:
        stats = self._client.stats()
        traffic = self._client.traffic() if view in _WITH_TRAFFIC else None
        if view == "services":
            self._read_services(stats)
        self._failing_since = None
        if self._readings and not is_comparable(self._readings[-1].stats, stats):
            self._readings.clear()
            self._forget_services()
        self._readings.append(_Reading(stats, traffic))
        if len(self._readings) == 1:
            return None
        rates = rates_between(self._readings[0].stats, stats)
        if traffic is None:
            return rates
        before = next(one.traffic for one in self._readings if one.traffic is not None)
        services = None
        if view == "services" and is_comparable(before, traffic):
            services = service_rates(before, traffic, self._lines)
        return msgspec.structs.replace(rates, services_by_rate=services, top=traffic.top)

    def _read_services(self, stats: StatsReading) -> None:
        """Read the services that have changed. Until the first change, all of them if their sums differ."""
        if not self._last_change and self._lines and stats.table == self._table:
            return
        listing = self._client.services(self._last_change)
        if not self._last_change:
            self._lines.clear()
        self._lines.update({line.name: line for line in listing.services})
        for name in listing.gone:
            self._lines.pop(name, None)
        self._last_change, self._table = listing.last, stats.table

    def _forget_services(self) -> None:
        self._lines.clear()
        self._last_change = 0


class ReadingThread(threading.Thread):
    """Takes a reading each second, so that a slow server delays no key.

    Attributes:
        view: the view that the next readings are for; call `read_now` after a change.

    Args:
        readings: the readings.
        view: as above.
        on_result: called in this thread after each result.
    """

    def __init__(self, readings: Readings, view: View, on_result: Callable[[], None]) -> None:
        super().__init__(name="zkdns top", daemon=True)
        self.view = view
        self._last: tuple[View, Rates | Unavailable] | None = None
        self._readings = readings
        self._on_result = on_result
        self._wake = threading.Event()

    def result_for(self, view: View) -> Rates | Unavailable | None:
        """The last result. None: there is none, or it lacks the traffic, which this view needs."""
        if self._last is None:
            return None
        read_for, result = self._last
        lacks_traffic = isinstance(result, Rates) and view in _WITH_TRAFFIC and read_for != view
        return None if lacks_traffic else result

    def read_now(self) -> None:
        """Take the next reading at once."""
        self._wake.set()

    def run(self) -> None:
        """Take readings without end; the thread ends with the process."""
        while True:
            started_at = time.monotonic()
            self._wake.clear()
            view = self.view
            result = self._readings.read(view)
            if result is not None:
                self._last = view, result
                self._on_result()
            self._wake.wait(max(started_at + SECONDS - time.monotonic(), 0.0))
