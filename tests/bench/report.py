"""What a benchmark prints: figures beside their yardsticks and what was to be reached."""

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One line of the report; values are in `unit`."""

    what: str
    measured: float
    unit: str
    bound: float | None = None
    """The most that it should be; None: told for its own sake."""
    yardstick: str = ""
    """What it is measured by, with its own figure in the same run."""
    section: str = ""
    """The benchmark that it is of."""
    details: Mapping[str, float] = field(default_factory=dict)
    """More of the same measurement, for who reads JSON."""

    @property
    def is_reached(self) -> bool | None:
        """Whether it is within its bound."""
        return None if self.bound is None else self.measured <= self.bound


class Report:
    """Figures as they are measured, told at the end as a table, or as JSON."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []
        self.section = ""
        """The benchmark that figures are taken of now."""

    def add(
        self,
        what: str,
        measured: float,
        unit: str,
        *,
        bound: float | None = None,
        yardstick: str = "",
        details: Mapping[str, float] | None = None,
    ) -> None:
        """Take a figure."""
        figure = Figure(what, measured, unit, bound, yardstick, self.section, details or {})
        self.figures.append(figure)

    def print(self, *, as_json: bool) -> None:
        """Tell all."""
        if as_json:
            print(json.dumps([asdict(figure) | {"reached": figure.is_reached} for figure in self.figures]))
            return
        table = Table("what", "measured", "to reach", "yardstick in the same run", "", box=None)
        section = ""
        for figure in self.figures:
            if figure.section != section:
                section = figure.section
                table.add_row(f"[bold]{section}[/]")
            mark = {None: "", True: "[green]reached[/]", False: "[red]not reached[/]"}[figure.is_reached]
            bound = "" if figure.bound is None else f"<= {figure.bound:g} {figure.unit}"
            table.add_row(figure.what, f"{figure.measured:.4g} {figure.unit}", bound, figure.yardstick, mark)
        Console().print(table)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Show on standard error what is being done, and for how long."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=None)

        def tell(what: str) -> None:
            shown.print(f"[dim]{what}[/]")
            shown.reset(task, description=what, total=None)

        yield tell


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def spread(values: Sequence[float], unit: str = "ms", scale: float = 1000.0) -> str:
    """Median and 99th percentile, as people read them."""
    median, most = statistics.median(values) * scale, percentile(values, 0.99) * scale
    return f"median {median:.2f} {unit}, p99 {most:.2f} {unit}"
