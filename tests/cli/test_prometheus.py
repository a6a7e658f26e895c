"""`zkdns prometheus`: the metrics of a server, and the files of the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from tests.cli import run
from tests.support.server import ZkdnsServer
from zkdns.cli.prometheus import ALERTS, DASHBOARD, packaged_text

pytestmark = pytest.mark.processes


def test_without_an_option_it_prints_the_metrics(demo: ZkdnsServer) -> None:
    ended = run("prometheus", "--server", demo.api)
    assert (ended.status, ended.errors) == (0, "")
    assert "\nzkdns_services 6.0\n" in ended.output


@pytest.mark.parametrize(("option", "file"), [("--alerts", ALERTS), ("--dashboard", DASHBOARD)])
def test_files_of_the_package_are_printed_unchanged(option: str, file: str) -> None:
    ended = run("prometheus", option)
    assert (ended.status, ended.output, ended.errors) == (0, packaged_text(file), "")


def test_the_files_have_their_formats() -> None:
    assert yaml.safe_load(packaged_text(ALERTS))["groups"]
    assert json.loads(packaged_text(DASHBOARD))["panels"]


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (["--alerts", "--dashboard"], 2, "--alerts: cannot be combined with --dashboard"),
        (["--alerts", "--server", "/x/api"], 2, "--server: cannot be combined with --alerts or --dashboard"),
        (["--server", "nonsense"], 2, "--server: 'nonsense' is neither a URL nor a path"),
    ],
)
def test_usage_errors(arguments: list[str], status: int, error: str) -> None:
    ended = run("prometheus", *arguments)
    assert (ended.status, ended.output) == (status, "")
    assert error in ended.errors


def test_without_a_server_the_exit_status_is_3(short_path: Path) -> None:
    ended = run("prometheus", "--server", str(short_path / "api"))
    assert (ended.status, ended.output) == (3, "")
    assert ended.errors.startswith("zkdns: no server listens at ")
