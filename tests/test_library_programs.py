"""The programs of the page library.md run against real servers, and type checkers accept them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import zkdns
from tests.support.loopback import free_port
from tests.support.memcached import MemcachedServer, memcached_is_missing
from tests.support.process_guard import running_guarded
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from tests.support.zookeeper_clients import MembershipMonitor
from zkdns import PRODUCTION, ServerSet

pytestmark = pytest.mark.processes

_PAGE = (Path(zkdns.__file__).parent / "docs" / "library.md").read_text(encoding="utf-8")
PROGRAMS = dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", _PAGE, re.MULTILINE | re.DOTALL))
ROOT = Path(zkdns.__file__).parent.parent


class Programs:
    """The programs in a directory, with the addresses of this test."""

    def __init__(self, directory: Path, zookeeper: str) -> None:
        self.directory = directory
        self.port = free_port()
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        replaced = {
            '["zk01:2181", "zk02:2181", "zk03:2181"]': repr([zookeeper]),
            '"10.0.0.1"': '"127.0.0.1"',
            "8080": str(self.port),
        }
        for name, text in PROGRAMS.items():
            program = text
            for old, new in replaced.items():
                program = program.replace(old, new)
            (directory / name).write_text(program)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-W", "error", *arguments]

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run Python with these arguments during the block. A failure has a note with the output."""
        log = self.directory / "log"
        try:
            with (
                log.open("wb") as out,
                running_guarded(
                    self.command(*arguments),
                    stdout=out,
                    stderr=out,
                    cwd=self.directory,
                    env=self._environment,
                ) as process,
            ):
                yield process
        except BaseException as error:
            error.add_note(log.read_text(errors="replace"))
            raise

    def output(self) -> list[str]:
        """The lines that the running program has printed."""
        return (self.directory / "log").read_text().splitlines()


@pytest.fixture
def place(zookeeper: ZooKeeperServer, zk: Any, zk_root: str) -> str:
    """The ZooKeeper server with a chroot for the test."""
    zk.ensure_path(zk_root)
    return f"{zookeeper.address}{zk_root}"


@pytest.fixture
def programs(tmp_path: Path, place: str) -> Programs:
    return Programs(tmp_path, place)


def test_the_page_has_three_programs() -> None:
    assert sorted(PROGRAMS) == ["service.py", "web.py", "worker.py"]


# -- gunicorn ----------------------------------------------------------------------------------------------


def test_a_web_application_is_one_member_while_it_responds(programs: Programs, place: str) -> None:
    web = ServerSet(PRODUCTION, "web", place)
    endpoint = f"127.0.0.1:{programs.port}"
    with (
        web.watch() as watch,
        MembershipMonitor(place, web.path) as monitor,
        programs.running("-m", "gunicorn", "--config", "web.py", "web:application") as process,
    ):
        eventually(lambda: watch.endpoints == (endpoint,))
        with urllib.request.urlopen(f"http://{endpoint}/", timeout=20) as response:
            assert response.read() == b"hello\n"
        os.kill(min(workers_of(programs)), signal.SIGKILL)  # gunicorn starts another one
        eventually(lambda: len(workers_of(programs)) == 3)
        eventually(lambda: watch.endpoints == (endpoint,))
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(30.0) == 0
        eventually(lambda: not watch.endpoints)
    assert monitor.max_present == 1


def workers_of(programs: Programs) -> list[int]:
    """The process IDs of all workers that gunicorn has started."""
    return [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", "\n".join(programs.output()))]


# -- asyncio -----------------------------------------------------------------------------------------------


def test_a_service_serves_and_follows_the_other_members(programs: Programs, place: str) -> None:
    echo = ServerSet(PRODUCTION, "echo", place)
    with echo.watch() as watch, programs.running("service.py") as process:
        eventually(lambda: len(watch.endpoints) == 1)
        (endpoint,) = watch.endpoints
        host, _, port = endpoint.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(b"hello\n")
            assert client.makefile("rb").read() == b"echo hello\n"
        with echo.register("127.0.0.1", 1):
            eventually(lambda: programs.output()[-1] == f"members: {' '.join(watch.endpoints)}")
        eventually(lambda: programs.output()[-1] == f"members: {endpoint}")
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(20.0) == 0
        eventually(lambda: not watch.endpoints)
        assert all(line.startswith("members:") for line in programs.output())


# -- memcached ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(bool(memcached_is_missing()), reason=memcached_is_missing())
def test_a_worker_uses_the_caches_that_respond(programs: Programs, place: str) -> None:
    texts = [f"text{number}" for number in range(20)]
    memcache = ServerSet(PRODUCTION, "memcache", place)
    with contextlib.ExitStack() as stack:
        caches = [stack.enter_context(MemcachedServer()) for _ in range(3)]
        for cache in caches:
            stack.enter_context(memcache.register("127.0.0.1", cache.port))
        first, second = (work(programs, texts) for _ in range(2))
        assert first == [f"{text[::-1]} computed" for text in texts]
        assert second == [f"{text[::-1]} cached" for text in texts]
        assert all(cache.connections == 0 for cache in caches)
        caches[0].kill()
        third = work(programs, texts)
        assert [line.split()[0] for line in third] == [text[::-1] for text in texts]
        sources = {line.split()[1] for line in third}
        assert sources == {"cached", "computed"}  # those of the dead server are computed
    assert work(programs, texts[:1]) == ["0txet computed"]  # the set is empty


def work(programs: Programs, texts: list[str]) -> list[str]:
    """The output of the worker for these lines."""
    done = subprocess.run(
        programs.command("worker.py"), input="\n".join(texts), check=False, capture_output=True, text=True,
        timeout=60, cwd=programs.directory, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


# -- type checkers -----------------------------------------------------------------------------------------

# A mistake in each program, which a checker that does not find the types of zkdns would not see.
MISTAKES = {
    "web.py": ("web.register(HOST, PORT,", "web.register(HOST, bind,"),
    "service.py": ("*endpoints,", "*endpoints.values(),"),
    "worker.py": ("MCSet(watch)", "MCSet(ZOOKEEPER)"),
}


@pytest.fixture
def checked(tmp_path: Path) -> tuple[list[str], list[str]]:
    """The programs as they are, and with a mistake."""
    correct, wrong = tmp_path / "correct", tmp_path / "wrong"
    for directory in (correct, wrong):
        directory.mkdir()
    for name, text in PROGRAMS.items():
        (correct / name).write_text(text)
        mistaken = text.replace(*MISTAKES[name])
        assert mistaken != text
        (wrong / name).write_text(mistaken)
    settings = {"typeCheckingMode": "strict", "pythonVersion": "3.11"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    return [str(correct / name) for name in PROGRAMS], [str(wrong / name) for name in PROGRAMS]


def test_mypy_accepts_the_programs(checked: tuple[list[str], list[str]], tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is in the extra lint")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    correct, wrong = (
        subprocess.run(
            [*command, *files], check=False, capture_output=True, text=True, timeout=240, cwd=tmp_path
        )
        for files in checked
    )
    assert correct.stdout == "Success: no issues found in 3 source files\n"
    assert sorted(re.findall(r"(\w+\.py):\d+: error: ", wrong.stdout)) == sorted(PROGRAMS), wrong.stdout


@pytest.mark.skipif(
    shutil.which("node") is None, reason="pyright needs node (Debian and Ubuntu: apt install nodejs)"
)
def test_pyright_accepts_the_programs(checked: tuple[list[str], list[str]], tmp_path: Path) -> None:
    """In its strict mode, which also reports types that are only partly known."""
    pytest.importorskip("pyright", reason="pyright is in the extra lint")
    correct, wrong = checked
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", *correct, *wrong],
        check=False, capture_output=True, text=True, timeout=240, cwd=tmp_path,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] == len(correct) + len(wrong)
    assert {problem["file"] for problem in found["generalDiagnostics"]} == set(wrong), done.stdout
