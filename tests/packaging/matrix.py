"""The extras, and other versions of kazoo and Python. `tests/run pythons` runs this file, other runs do not.

Also servers that load an application and then fork, which the tests of the source tree do not need. Each test
creates an environment, which takes some seconds to a minute.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kazoo import version

from tests.packaging.test_light_install import PROJECT, ROOT
from tests.packaging.test_pythons import IMPORT_ALL
from tests.support.process_guard import running_guarded
from tests.support.pythons import other_pythons
from tests.support.venvs import Venv, index_is_unreachable
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer

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
        timeout=1200,  # some ten times the time on an idle machine
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
    settings = {"ZKDNS_LISTEN": "127.0.0.1:0", "ZKDNS_ADMIN": "none", "ZKDNS_ADMIN_SOCKET": "none"}
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
        hint = r"zkdns lookup web\.staging\.discovery --dns (\S+)"
        (server,) = eventually(lambda: re.findall(hint, output.read_text()))
        done = venv.run("zkdns", "lookup", "--dns", server, "web.staging.discovery")
    assert "192.0.2.1" in done.stdout
    assert "Traceback" not in output.read_text()


@needs_pythons
@pytest.mark.parametrize("name", other_pythons() or ["none"])
def test_tests_pass_with_another_python(name: str) -> None:
    """The unit tests, and a few with servers and with ZooKeeper."""
    venv = Venv(ROOT / ".tests" / "pythons" / f"{name}-tests", other_pythons()[name])
    venv.install("--editable", f"{ROOT}[test]")
    python = str(venv.bin / "python")
    done = run_tests(python, "-n", "4", "--dist", "loadfile", "-m", "not zookeeper and not processes")
    assert done.returncode == 0, f"Python {name}:\n{done.stdout[-4000:]}"
    done = run_tests(python, *PYTHON_TESTS)
    assert done.returncode == 0, f"Python {name}:\n{done.stdout[-4000:]}"


# -- servers that fork --------------------------------------------------------------------------------------

SETS = """\
import os
from zkdns import ServerSet
from zkdns.balance import RoundRobin

namespace = os.environ["NAMESPACE"]
web = ServerSet("test", "web", os.environ["ZOOKEEPER"], namespace=namespace, session_timeout=30.0)

def start():
    global registration, watch, balancer
    registration, watch = web.register("main", 1), web.watch()
    balancer = RoundRobin(watch)

def state():
    \"""The process, whether its registration is the parent's, and the members that it sees.\"""
    picked = sorted(balancer.pick() for _ in watch.endpoints)
    with web.register("child", os.getpid()) as own:
        return [os.getpid(), registration.is_closed, picked, own.is_registered]
"""

UWSGI = """\
import json, logging, sets

logging.basicConfig(level=logging.WARNING)
sets.start()

def application(environ, start_response):
    start_response("200 OK", [])
    return [json.dumps(sets.state()).encode()]
"""

CELERY = """\
import os, sets, time
from celery import Celery

here = os.getcwd()
app = Celery("tasks", broker="filesystem://", backend=f"file://{here}")
app.conf.broker_transport_options = {f"data_folder_{way}": here for way in ("in", "out")}
app.conf.broker_transport_options["control_folder"] = here
@app.task(name="state")
def state():
    time.sleep(0.2)  # so that the next task runs in the other process
    return sets.state()

if "WORKER" in os.environ:
    sets.start()
"""

CELERY_CALL = """\
import json, tasks

results = [tasks.app.send_task("state") for _ in range(4)]
print(json.dumps([result.get(timeout=30.0) for result in results]))
"""


def expect_following_children(ask: Callable[[], list[list[Any]]], path: str, zk: Any) -> None:
    """Both children follow the set, can register, and leave the member of their parent alone.

    `ask` returns the state of one child or of several.
    """
    seen: dict[int, tuple[Any, ...]] = {}

    def both_have(*endpoints: str) -> None:
        def have() -> bool:
            for pid, is_closed, picked, is_registered in ask():
                others = [endpoint for endpoint in picked if not endpoint.startswith("child:")]
                seen[pid] = is_closed, others, is_registered
            return len(seen) == 2 and all(found == (True, [*endpoints], True) for found in seen.values())

        eventually(have, timeout=60.0)

    both_have("main:1")
    data = b'{"serviceEndpoint":{"host":"late","port":2},"additionalEndpoints":{},"status":"ALIVE"}'
    zk.create(f"{path}/member_", data, sequence=True, ephemeral=True)
    both_have("late:2", "main:1")


@pytest.mark.parametrize("options", [[], ["--py-call-uwsgi-fork-hooks"]], ids=["default", "with-hooks"])
def test_workers_of_uwsgi(
    *, options: list[str], wheel: Path, tmp_path: Path, zookeeper: ZooKeeperServer, zk: Any, zk_root: str
) -> None:
    venv = Venv(tmp_path / "venv")
    venv.install(str(wheel), "pyuwsgi>=2.0.28")  # earlier ones need --enable-threads
    (tmp_path / "sets.py").write_text(SETS)
    (tmp_path / "web.py").write_text(UWSGI)
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as out:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"

        def ask() -> list[list[Any]]:
            with urllib.request.urlopen(url, timeout=20.0) as response:
                return [json.load(response)]

        command = [str(venv.bin / "uwsgi"), "--master", "--processes", "2", "--wsgi", "web", *options]
        command += ["--die-on-term", "--http-socket", f"fd://{listener.fileno()}"]
        with running_guarded(
            command,
            env=forking_environment(zookeeper, zk_root),
            cwd=tmp_path,
            pass_fds=(listener.fileno(),),
            stdout=out,
            stderr=out,
        ) as main:
            expect_following_children(ask, f"{zk_root}/test/web", zk)
            os.kill(main.pid, signal.SIGTERM)
            assert main.wait(30.0) == 0  # workers that hang live for a minute
    text = log.read_text()
    assert text.count("registration_closed_by_fork") == 2
    assert text.count("uwsgi_options_missing options=py-call-uwsgi-fork-hooks") == (not options)


def test_workers_of_celery(
    wheel: Path, tmp_path: Path, zookeeper: ZooKeeperServer, zk: Any, zk_root: str
) -> None:
    venv = Venv(tmp_path / "venv")
    venv.install(str(wheel), "celery")
    (tmp_path / "sets.py").write_text(SETS)
    (tmp_path / "tasks.py").write_text(CELERY)
    environment = forking_environment(zookeeper, zk_root)

    def ask() -> list[list[Any]]:
        command = [str(venv.bin / "python"), "-c", CELERY_CALL]
        done = subprocess.run(
            command, check=True, capture_output=True, timeout=60, cwd=tmp_path, env=environment
        )
        return list(json.loads(done.stdout))

    log = tmp_path / "log"
    with log.open("wb") as out:
        command = [str(venv.bin / "celery"), "-A", "tasks", "worker", "--concurrency", "2", "-l", "WARNING"]
        with running_guarded(
            command, env={**environment, "WORKER": "1"}, cwd=tmp_path, stdout=out, stderr=out
        ) as main:
            expect_following_children(ask, f"{zk_root}/test/web", zk)
            os.kill(main.pid, signal.SIGTERM)
            assert main.wait(30.0) == 0
    assert log.read_text().count("registration_closed_by_fork") == 2


def forking_environment(zookeeper: ZooKeeperServer, zk_root: str) -> dict[str, str]:
    """Of a program with `SETS`."""
    others = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    namespace = f"{zk_root}/{{environment}}/{{service}}"
    return {**others, "ZOOKEEPER": zookeeper.address, "NAMESPACE": namespace}
