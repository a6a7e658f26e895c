"""The extras, and other versions of kazoo and Python. `tests/run pythons` runs this file, other runs do not.

Each test creates an environment, which takes some seconds to a minute.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from kazoo import version

from tests.packaging.test_light_install import PROJECT, ROOT
from tests.packaging.test_pythons import IMPORT_ALL
from tests.support.process_guard import running_guarded
from tests.support.pythons import other_pythons
from tests.support.venvs import Venv, index_is_unreachable
from tests.support.waiting import eventually

pytestmark = pytest.mark.processes

SASL = """\
from pathlib import Path
from zkdns.config import ZooKeeperSettings
from zkdns.serverset.auth import load_access

file = Path("zookeeper.toml")
file.write_text('[sasl]\\nmechanism = "DIGEST-MD5"\\nusername = "web"\\npassword = "secret"\\n')
file.chmod(0o600)
print(load_access(ZooKeeperSettings(credentials=str(file))).sasl.mechanism)
"""

SET = """\
from zkdns import FixedSet

watch = FixedSet(["127.0.0.1:1"])
"""

HTTPX = """\
import httpx
from zkdns.httpset import Transport

print(type(httpx.Client(transport=Transport(watch))).__name__)
"""

REQUESTS = """\
import requests
from zkdns.httpset import Adapter

session = requests.Session()
session.mount("http://web/", Adapter(watch))
print(type(session.get_adapter("http://web/")).__name__)
"""

MEMCACHE = """\
from zkdns.mcset import MCSet

with MCSet(watch).client():
    print(MCSet(watch).pick("a"))
"""

THRIFT = """\
from thriftpy2.rpc import make_client
from zkdns.thriftset import ThriftSet

print(ThriftSet(watch, make_client).endpoints)
"""

# By extra: a program that uses its packages, and what it prints.
EXTRAS = {
    "httpx": (SET + HTTPX, "Client"),
    "httpx2": (SET + HTTPX.replace("import httpx", "import httpx2 as httpx"), "Client"),
    "requests": (SET + REQUESTS, "Adapter"),
    "memcache": (SET + MEMCACHE, "127.0.0.1:1"),
    "thrift": (SET + THRIFT, "('127.0.0.1:1',)"),
    "sasl": (SASL, "DIGEST-MD5"),
}


def test_every_extra_is_tested() -> None:
    others = {"http", "lint", "server", "test"}  # `http` is the first three together
    assert set(EXTRAS) | others == set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_works_in_a_fresh_environment(extra: str, wheel: Path, tmp_path: Path) -> None:
    venv = Venv(tmp_path / "venv")
    venv.install(f"{wheel}[{extra}]")
    assert not {"aiohttp", "click", "dnslib", "structlog"} & venv.packages
    program, expected = EXTRAS[extra]
    done = venv.run("python", "-c", program)
    assert (done.stdout.strip(), done.stderr) == (expected, "")


# -- versions of kazoo --------------------------------------------------------------------------------------

KAZOO = {
    "before": "==2.10.0",
    "oldest": "==2.11.0",
    "newest": PROJECT["dependencies"][0].removeprefix("kazoo"),
}
INTERNALS_TESTS = ("test_kazoo_check.py", "test_kazoo_ext.py", "test_watch_strategy.py")
KAZOO_TESTS = (*INTERNALS_TESTS, "test_registration.py", "test_set_watch.py", "test_auth.py")


@pytest.mark.parametrize("age", KAZOO)
def test_key_tests_pass_with_another_kazoo(age: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *("--target", str(tmp_path), f"kazoo{KAZOO[age]}"),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode != 0 and index_is_unreachable(done.stderr):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    (metadata,) = tmp_path.glob("kazoo-*.dist-info")
    found = metadata.name.removeprefix("kazoo-").removesuffix(".dist-info")
    if found == version.__version__:
        pytest.skip(f"the {age} accepted kazoo is {found}, which is installed: all other tests use it")
    # The version before the oldest accepted one has the same private parts. It shows that this test works,
    # while only one version is accepted.
    files = INTERNALS_TESTS if age == "before" else KAZOO_TESTS
    done = run_tests(sys.executable, *(f"tests/serverset/{file}" for file in files), path=str(tmp_path))
    assert done.returncode == 0, f"kazoo {found}:\n{done.stdout[-4000:]}"


def run_tests(python: str, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run pytest in the source tree."""
    return subprocess.run(
        [python, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
    )


# -- versions of Python -------------------------------------------------------------------------------------

PYTHON_TESTS = (
    "tests/serverset/test_kazoo_check.py",
    "tests/serverset/test_server_set.py",
    "tests/cli/test_serve.py",
    "tests/httpset",
    "tests/thriftset/test_pools.py",
)


needs_pythons = pytest.mark.skipif(not other_pythons(), reason="no other version of Python is installed")


@needs_pythons
@pytest.mark.parametrize("name", other_pythons() or ["none"])
def test_a_server_answers_with_another_python(name: str, wheel: Path, tmp_path: Path) -> None:
    """From the wheel, of which all modules can be imported."""
    venv = Venv(tmp_path / "venv", other_pythons()[name])
    venv.install(f"{wheel}[server,http,memcache]")
    done = venv.run("python", "-W", "error", "-c", IMPORT_ALL)
    assert int(done.stdout) > 200
    assert done.stderr == ""
    output = tmp_path / "output"
    settings = {"ZKDNS_LISTEN": "127.0.0.1:0", "ZKDNS_ADMIN": "none", "ZKDNS_CONTROL": "none"}
    with (
        output.open("wb") as out,
        running_guarded(
            [str(venv.bin / "zkdns"), "serve", "--demo"],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=settings,
            cwd=tmp_path,
        ),
    ):
        (port,) = eventually(lambda: re.findall(r"-p (\d+) web\.staging\.discovery A ", output.read_text()))
        done = venv.run("zkdns", "lookup", "--server", f"127.0.0.1:{port}", "web.staging.discovery")
    assert "192.0.2.1" in done.stdout
    assert "Traceback" not in output.read_text()


@needs_pythons
@pytest.mark.parametrize("name", other_pythons() or ["none"])
def test_tests_pass_with_another_python(name: str) -> None:
    """The unit tests, and a few with servers and with ZooKeeper."""
    venv = Venv(ROOT / ".tests" / "pythons" / f"{name}-tests", other_pythons()[name])
    venv.install("--editable", f"{ROOT}[test]")
    python = str(venv.bin / "python")
    done = run_tests(python, "-m", "not zookeeper and not processes")
    assert done.returncode == 0, f"Python {name}:\n{done.stdout[-4000:]}"
    done = run_tests(python, *PYTHON_TESTS)
    assert done.returncode == 0, f"Python {name}:\n{done.stdout[-4000:]}"
