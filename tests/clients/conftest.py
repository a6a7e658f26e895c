"""Tells after everything else, in two lines, which clients were asked for what."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.client import Case, Client
from tests.clients.summary import Ran, summary


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let reports, also of what is skipped, say which client and which case they are of."""
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        client, case = parameters.get("client"), parameters.get("case")
        if isinstance(client, Client) and isinstance(case, Case):
            item.user_properties += [("client", client.name), ("case", case.value)]


def pytest_unconfigure(config: pytest.Config) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        for line in summary(_all_ran(reporter.stats)):
            reporter.write_line(line)


def _all_ran(stats: dict[str, list[pytest.TestReport]]) -> Iterator[Ran]:
    for category, outcome in (
        ("passed", "passed"),
        ("failed", "failed"),
        ("error", "failed"),
        ("skipped",) * 2,
    ):
        for report in stats.get(category, ()):
            properties = dict(getattr(report, "user_properties", ()))
            if "client" in properties:
                reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
                yield Ran(
                    str(properties["client"]),
                    str(properties["case"]),
                    outcome,
                    reason.removeprefix("Skipped: "),
                )
