"""The units are right and closed, as systemd itself sees them; nothing is started."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.systemd.service_files import INSTALLED, UNITS

MOST_EXPOSED = 1.3
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))

pytestmark = [
    pytest.mark.skipif(
        shutil.which("systemd-analyze") is None,
        reason="needs systemd-analyze (Debian and Ubuntu: the package systemd)",
    ),
    pytest.mark.processes,
    pytest.mark.punctual,
]


def analyze(*arguments: str) -> str:
    """What it prints, on whichever output; it must have nothing against it."""
    ended = subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def test_there_are_services() -> None:
    assert SERVICES == ["zkdns-register@.service", "zkdns.service"]


def test_nothing_is_to_be_said_against_the_units(tmp_path: Path) -> None:
    """Only the program is another: here it need not be installed."""
    for unit in UNITS.iterdir():
        (tmp_path / unit.name).write_text(unit.read_text().replace(INSTALLED, sys.executable))
    instances = [str(tmp_path / unit.name).replace("@.", "@web.") for unit in UNITS.iterdir()]
    assert len(instances) == 3
    assert analyze("verify", "--man=no", *instances) == ""


@pytest.mark.parametrize("name", SERVICES)
def test_the_services_are_closed(name: str) -> None:
    printed = analyze("security", "--offline=true", str(UNITS / name))
    exposure = re.search(r"Overall exposure level for .*: ([\d.]+)", printed)
    assert exposure, printed
    assert float(exposure[1]) <= MOST_EXPOSED
