"""Measured points of a fleet, and linear models of them: fitted, checked and extrapolated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.report import percentile

HOSTS = "hosts"
"""The role of the simulated hosts in `Point.cpu`; all other roles are servers."""
_INDEPENDENT = 1e-6
"""The smallest pivot, of columns of length 1, at which the points determine the coefficient of a term."""


@dataclass(frozen=True)
class Point:
    """One measurement: N hosts, and changes at a steady rate."""

    setting: str
    """Where the hosts read from."""
    hosts: int
    rate: float
    """Changes per second; 0: at rest."""
    seconds: float
    """From the first write until all hosts had read everything, or until the time limit."""
    cpu: Mapping[str, float]
    """CPU seconds by role."""
    changes: int = 0
    requests: int = 0
    """Requests that the hosts sent after changes. Fewer than one for each host and change if a request read
    several changes."""
    notifies: int = 0
    """NOTIFY messages that the hosts received."""
    delays: Sequence[float] = ()
    """Seconds from the acknowledgement of a write until a host has read it, for all hosts and writes."""
    missing: int = 0
    """Reads that had not happened at the time limit."""
    drain: float = 0.0
    """Seconds from the last acknowledgement until all hosts had read everything."""

    @property
    def servers_cpu(self) -> float:
        """CPU seconds of all servers."""
        return sum(seconds for role, seconds in self.cpu.items() if role != HOSTS)

    def delay(self, share: float) -> float:
        """The delay below which the given share of all delays lies."""
        return percentile(self.delays, share)

    @property
    def counted_cpu(self) -> float:
        """As `servers_cpu`, at least one tick of the kernel's clock, so that it can be a divisor."""
        return max(self.servers_cpu, 0.01)

    @property
    def request_share(self) -> float:
        """Requests for each change and host. 1: each change was read with a request of its own."""
        return self.requests / (self.changes * self.hosts)


@dataclass(frozen=True)
class Model:
    """A value as the sum of causes, each multiplied with a coefficient."""

    coefficients: Mapping[str, float]

    def predict(self, causes: Mapping[str, float]) -> float:
        """The value for these causes."""
        return sum(self.coefficients[name] * amount for name, amount in causes.items())

    def residual(self, causes: Mapping[str, float], measured: float) -> float:
        """By which share of the measured value the prediction is above it."""
        return self.predict(causes) / measured - 1


@dataclass(frozen=True)
class Theory:
    """The dependence of a value on its causes."""

    causes: Callable[[Point], Mapping[str, float]]
    """Returns the causes of the value at a point."""
    value: Callable[[Point], float]
    causes_per_second: Callable[[int, float], Mapping[str, float]]
    """Returns the causes of the value in a second, for a number of hosts and of changes per second."""

    def fit(self, points: Sequence[Point]) -> Model:
        """The model that is closest to these points."""
        return fit([self.causes(point) for point in points], [self.value(point) for point in points])

    def residuals(self, model: Model, points: Sequence[Point]) -> str:
        """By which share of the measured values the model is above them, as text."""
        shares = [model.residual(self.causes(point), self.value(point)) for point in points]
        return f"{min(shares):+.0%} to {max(shares):+.0%} of {len(shares)}" if shares else "none"


def delay_theory(share: float) -> Theory:
    """The delay below which this share of all delays lies, at least a millisecond.

    It is a constant, and a part for each host, since a server serves one after the other.
    """

    def causes(hosts: int, _rate: float = 0.0) -> dict[str, float]:
        return {"fleet of any size": 1.0, "host": float(hosts)}

    return Theory(lambda point: causes(point.hosts), lambda point: max(point.delay(share), 0.001), causes)


def fit(causes: Sequence[Mapping[str, float]], measured: Sequence[float]) -> Model:
    """The model with the smallest squares of relative residuals, and without negative coefficients.

    Args:
        causes: of each measurement, by the same names.
        measured: the positive values.

    Raises:
        ValueError: there is no measurement with a cause.
    """
    best, least = None, math.inf
    for names in _subsets(list(causes[0])):
        rows = [[each[name] / value for name in names] for each, value in zip(causes, measured, strict=True)]
        solution = _least_squares(rows)
        if solution is None or min(solution) < 0:
            continue
        squares = sum((_dot(row, solution) - 1) ** 2 for row in rows)
        if squares < least:
            best, least = dict(zip(names, solution, strict=True)), squares
    if best is None:
        raise ValueError("the measured points do not determine a model")
    return Model({name: best.get(name, 0.0) for name in causes[0]})


def _subsets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """All subsets but the empty one. The smallest come first, so that of equal models the simplest wins."""
    for size in range(1, len(names) + 1):
        yield from itertools.combinations(names, size)


def _least_squares(rows: Sequence[Sequence[float]]) -> list[float] | None:
    """The coefficients with which the rows come closest to 1; None if the rows do not determine them."""
    columns = list(zip(*rows, strict=True))
    lengths = [math.hypot(*column) for column in columns]
    if not all(lengths):
        return None
    units = [[value / length for value in column] for column, length in zip(columns, lengths, strict=True)]
    system = [[*(_dot(unit, other) for other in units), sum(unit)] for unit in units]
    for index, pivot in enumerate(system):  # Gauss-Jordan elimination; the matrix is positive definite
        if pivot[index] < _INDEPENDENT:
            return None
        for row in system:
            if row is not pivot:
                factor = row[index] / pivot[index]
                row[:] = [a - factor * b for a, b in zip(row, pivot, strict=True)]
    return [row[-1] / row[index] / lengths[index] for index, row in enumerate(system)]


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))
