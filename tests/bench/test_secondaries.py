"""The benchmark of secondaries: its delays, and its run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.bench.processes import find_program
from tests.bench.secondaries import parse
from tests.bench.secondary_rigs import Change, delays_of
from tests.support.secondaries import SECONDARIES


def test_a_delay_ends_with_the_first_serial_that_is_not_older() -> None:
    changes = [Change(5, 1.0), Change(6, 1.1), Change(8, 2.0), Change(9, 3.0)]
    seen = [(0.5, 4), (1.3, 6), (2.5, 8)]
    assert delays_of(changes, seen) == [pytest.approx(each) for each in (0.3, 0.2, 0.5)]
    assert delays_of(changes, []) == []


def test_serials_are_compared_in_a_circle() -> None:
    assert delays_of([Change(2**32 - 1, 1.0), Change(3, 2.0)], [(1.5, 2**32 - 1), (2.25, 3)]) == [0.5, 0.25]


@pytest.mark.processes
@pytest.mark.zookeeper
def test_it_runs_from_the_command_line() -> None:
    if any(kind.is_missing() for kind in SECONDARIES) or find_program("cc") is None:
        pytest.skip(
            "needs all secondaries and cc (Debian and Ubuntu: apt install knot nsd bind9 unbound gcc)"
        )
    options = ("--minutes", "0.02", "--rate", "5", "--services", "9", "--members", "3", "--json")
    command = [sys.executable, "-m", "tests.bench.secondaries", *options]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    results = json.loads(ran.stdout)
    assert {result["name"]: result["measured"] for result in results if result["limit"] == 0} == {
        "whole zones": 0,
        "processes that ended": 0,
        "secondaries of zkdns": 0,
        "secondaries of Knot": 0,
    }
    assert len([result for result in results if result["unit"] == "s"]) == len(SECONDARIES)
    assert any(result["section"] == "Knot in front of zkdns" for result in results)


@pytest.mark.parametrize("option", ["--minutes", "--rate", "--services"])
def test_a_wrong_argument_is_a_usage_error(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([option, "0"])
    assert "must be" in capsys.readouterr().err
