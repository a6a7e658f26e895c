"""Prints a summary of the tested clients and cases after the test run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.client import Case, Client
from tests.clients.summary import CaseResult, summarize


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add client and case to the reports, including reports of skipped tests."""
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        client, case = parameters.get("client"), parameters.get("case")
        if isinstance(client, Client) and isinstance(case, Case):
            item.user_properties += [("client", client.name), ("case", case.value)]


def pytest_unconfigure(config: pytest.Config) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        for line in summarize(_results(reporter.stats)):
            reporter.write_line(line)


def _results(stats: dict[str, list[pytest.TestReport]]) -> Iterator[CaseResult]:
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
                yield CaseResult(
                    str(properties["client"]),
                    str(properties["case"]),
                    outcome,
                    reason.removeprefix("Skipped: "),
                )
