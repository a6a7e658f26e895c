"""What works without the packages of the extra `server`: the library. The command names the extra."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Makes modules missing, as if their packages were not installed.
HIDE = """\
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""

LIBRARY = """\
import importlib
import logging

logging.basicConfig(format="%(message)s", level=logging.INFO)

import zkdns
from zkdns.balance.ring import Ring
from zkdns.httpset import Adapter, AsyncTransport, Transport
import zkdns.mcset.client
from zkdns.config import ZooKeeperSettings
from zkdns.mcset import MCSet
from zkdns.serverset.auth import load_access
from zkdns.serverset.logs import Log
from zkdns.thriftset import ThriftSet

assert all(getattr(zkdns, name) for name in zkdns.__all__)
for module in ("httpx", "httpx2"):
    importlib.import_module(f"zkdns.httpset.{module}")
Log("zkdns").warning("member_skipped", path="/a")
print(sorted({name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names))
"""


def module_names(requirements: list[str]) -> set[str]:
    """The modules of packages, which have the names of the packages."""
    return {re.split(r"[^\w-]", one, maxsplit=1)[0].replace("-", "_") for one in requirements}


def run(hidden: set[str], program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", HIDE.format(names=hidden) + program],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
        cwd=ROOT,
    )


def test_the_library_works_without_the_packages_of_the_server() -> None:
    server = module_names(PROJECT["optional-dependencies"]["server"])
    assert {"aiohttp", "click", "dnslib", "structlog"} <= server
    done = run(server, LIBRARY)
    assert done.stderr == "zkdns: member_skipped path=/a\n"
    loaded = set(eval(done.stdout))  # noqa: S307 - the list that the program prints
    assert {"kazoo", "msgspec", "zkdns", "httpx", "httpx2", "requests", "mmh3", "pymemcache"} <= loaded
    assert not loaded & server


def test_the_library_does_not_load_installed_packages_of_the_server() -> None:
    server = module_names(PROJECT["optional-dependencies"]["server"])
    # httpx imports click and rich for its own command, if they are installed.
    program = re.sub(r".*(httpset|httpx).*\n", "", LIBRARY).replace(
        '    importlib.import_module(f"zkdns.httpset.{module}")\n', ""
    )
    loaded = set(eval(run(set(), program).stdout))  # noqa: S307 - as above
    assert "kazoo" in loaded
    assert not loaded & server


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("click", ("serve", "--demo")),
        ("click", ("--version",)),
        ("structlog", ("serve", "--demo")),
        ("aiohttp", ("serve", "--demo")),
        ("cachetools", ("serve", "--demo")),
        ("prometheus_client", ("serve", "--demo")),
        ("dnslib", ("lookup", "web.staging.discovery")),
        ("rich", ("top",)),
    ],
)
def test_the_command_names_the_extra_in_one_sentence(package: str, arguments: tuple[str, ...]) -> None:
    program = f"from zkdns.__main__ import main\nsys.argv[1:] = {list(arguments)}\nmain()\n"
    done = run({package}, program)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == (
        f"zkdns: the command zkdns needs the Python package {package}, which is not installed: "
        "pip install 'zkdns[server]'\n"
    )


def test_a_missing_module_of_zkdns_itself_is_a_traceback() -> None:
    """It is no missing package, so that the extra would not help."""
    done = run({"zkdns.cli"}, "sys.modules['zkdns.cli'] = None\nfrom zkdns.__main__ import main\nmain()\n")
    assert "Traceback" in done.stderr
    assert "zkdns[server]" not in done.stderr
