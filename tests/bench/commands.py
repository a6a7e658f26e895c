"""The run of a benchmark as a command: signals, and the report at its end."""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.plot import write_plot
from tests.bench.report import Report


@contextmanager
def reported(report: Report, options: argparse.Namespace) -> Iterator[None]:
    """Print the report when the block ends, also after an error, Ctrl-C or SIGTERM.

    Args:
        report: the results until then.
        options: `json`, and `plot`: the path of a file for the plot, or None.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that child processes end too
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        report.print(as_json=options.json)
        if options.plot is not None:
            write_plot(options.plot, report.results)
