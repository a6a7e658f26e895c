"""Static checks of the units by systemd-analyze: validity and sandboxing. No unit is started."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.systemd.service_files import INSTALLED, ROOT, UNITS

MAX_EXPOSURE = 1.3
SERVICES = [path.name for path in UNITS if path.suffix == ".service"]

pytestmark = [
    pytest.mark.skipif(
        shutil.which("systemd-analyze") is None,
        reason="needs systemd-analyze (Debian and Ubuntu: the package systemd)",
    ),
    pytest.mark.processes,
]


def analyze(*arguments: str) -> str:
    """Run systemd-analyze, which must succeed; return its standard output and error."""
    ended = subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def test_list_of_services() -> None:
    assert SERVICES == ["zkdns-register@.service", "zkdns.service"]


def test_units_are_valid(tmp_path: Path) -> None:
    """The path of the program is replaced, because zkdns need not be installed."""
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text().replace(INSTALLED, sys.executable))
    instances = [str(tmp_path / unit.name).replace("@.", "@web.") for unit in UNITS]
    assert len(instances) == 3
    assert analyze("verify", "--man=no", *instances) == ""


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_sandboxed(name: str) -> None:
    printed = analyze("security", "--offline=true", str(ROOT / "systemd" / name))
    exposure = re.search(r"Overall exposure level for .*: ([\d.]+)", printed)
    assert exposure, printed
    assert float(exposure[1]) <= MAX_EXPOSURE
