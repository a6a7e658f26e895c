"""The built wheel and sdist, for all tests of the package."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.test_light_install import ROOT


def build(source: Path, target: Path) -> None:
    """Build both from a source tree, with the build backend of the test environment."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", str(target)],
        check=True,
        capture_output=True,
        cwd=source,
        timeout=60,
    )


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel and the sdist."""
    directory = tmp_path_factory.mktemp("dist")
    build(ROOT, directory)
    return directory


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found
