"""The library in other versions of Python. `tests/run pythons` tests the server too, with many more tests."""

from pathlib import Path

import pytest

from tests.packaging.test_light_install import PROJECT, module_names
from tests.packaging.test_wheel import REGISTER_AND_WATCH
from tests.support.pythons import other_pythons
from tests.support.venvs import Venv
from tests.support.zookeeper import ZooKeeperServer

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not other_pythons(), reason="no other version of Python from 3.11 on is installed"),
]

IMPORT_ALL = """\
import importlib
import pkgutil
import sys

import zkdns
from zkdns.errors import MissingExtraError

def import_all(extras):
    count = 0
    for module in pkgutil.walk_packages(zkdns.__path__, "zkdns.", onerror=lambda _: None):
        try:
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
                count += 1
        except MissingExtraError:
            pass
        except ModuleNotFoundError as error:
            if error.name.partition(".")[0] not in extras:
                raise
    print(count)

import_all(set(sys.argv[1:]))
"""


@pytest.fixture(scope="module", params=other_pythons() or ["none"])
def venv(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Venv:
    """A fresh environment of another version, with the library alone."""
    made = Venv(tmp_path_factory.mktemp("python") / "venv", other_pythons()[request.param])
    made.install(str(wheel))
    return made


def test_all_modules_of_the_library_can_be_imported(venv: Venv) -> None:
    extras = PROJECT["optional-dependencies"]
    missing = module_names(extras["server"] + extras["http"] + extras["memcache"]) | {
        "dns",
        "httpcore",
        "httpcore2",
        "httpx",
        "httpx2",
        "requests",
    }
    done = venv.run("python", "-W", "error", "-c", IMPORT_ALL, *missing, check=False)
    assert done.stderr == ""
    assert int(done.stdout) > 80  # the others need packages of extras


def test_a_registration_is_watched(venv: Venv, zookeeper: ZooKeeperServer, zk_root: str) -> None:
    done = venv.run("python", "-W", "error", "-c", REGISTER_AND_WATCH, zookeeper.address, zk_root)
    assert (done.stdout, done.stderr) == ("('10.0.0.1:8080',)\n", "")
