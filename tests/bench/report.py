"""Results of benchmarks: each with its limit and the values it was compared with, as a table or JSON."""

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table


@dataclass(frozen=True)
class Result:
    """One line of the report; values are in `unit`."""

    name: str
    measured: float
    unit: str
    limit: float | None = None
    """Upper limit; None if there is none."""
    yardstick: str = ""
    """The values of the same run that it is compared with, such as the costs of other servers."""
    section: str = ""
    """Name of the benchmark."""
    details: Mapping[str, float] = field(default_factory=dict)
    """Further values of the same measurement; printed as JSON only."""

    @property
    def is_within_limit(self) -> bool | None:
        """Whether the value is within its limit; None without a limit."""
        return None if self.limit is None else self.measured <= self.limit


_MARKS = {None: "", True: "[green]within limit[/]", False: "[red]over limit[/]"}


class Report:
    """Collects results, and prints them at the end."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.section = ""
        """Name of the running benchmark."""

    def add(
        self,
        name: str,
        measured: float,
        unit: str,
        *,
        limit: float | None = None,
        yardstick: str = "",
        details: Mapping[str, float] | None = None,
    ) -> None:
        """Add a result of the running benchmark."""
        result = Result(name, measured, unit, limit, yardstick, self.section, details or {})
        self.results.append(result)

    def print(self, *, as_json: bool) -> None:
        """Print all results, as JSON or as a table."""
        if as_json:
            print(
                json.dumps(
                    [asdict(result) | {"within_limit": result.is_within_limit} for result in self.results]
                )
            )
            return
        table = Table("measurement", "value", "limit", "compared with, in the same run", "", box=None)
        section = ""
        for result in self.results:
            if result.section != section:
                section = result.section
                table.add_row(f"[bold]{section}[/]")
            mark = _MARKS[result.is_within_limit]
            limit = "" if result.limit is None else f"<= {result.limit:g} {result.unit}"
            table.add_row(result.name, f"{result.measured:.4g} {result.unit}", limit, result.yardstick, mark)
        Console().print(table)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows the current step and its duration on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=None)

        def show(step: str) -> None:
            shown.print(f"[dim]{step}[/]")
            shown.reset(task, description=step, total=None)

        yield show


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which the given share (0 to 1) of the values lies."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def spread(values: Sequence[float], unit: str = "ms", scale: float = 1000.0) -> str:
    """Median and 99th percentile as text."""
    median, p99 = statistics.median(values) * scale, percentile(values, 0.99) * scale
    return f"median {median:.2f} {unit}, p99 {p99:.2f} {unit}"
