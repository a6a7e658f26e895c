"""The README is true: its commands do what it says, its files hold, its examples print what it shows."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.guard import guarded
from tests.support.memcached import MemcachedServer, memcached_is_missing
from tests.support.reference import commands, held
from tests.support.server import ZkdnsServer
from tests.support.thrift import IDL, EchoServer
from tests.support.waiting import eventually
from tests.support.web import WebServer
from tests.support.zookeeper import ZooKeeperServer
from zkdns.balance.ring import Ring
from zkdns.config import load_config
from zkdns.serverset.member import decode_member, encode_member
from zkdns.serverset.static_file import parse_static

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEMO_PORT = "5300"


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in the README's order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def console_examples() -> list[tuple[str, str, list[str]]]:
    """Commands behind `$ `, each with how the server was started, and the lines of output that follow."""
    examples: list[tuple[str, str, list[str]]] = []
    served = ""
    for language, block in re.findall(r"^```(sh|console)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        if language == "sh":
            started = re.search(r"zkdns serve (--demo.*)", block)
            served = started[1] if started else served
            continue
        for line in block.splitlines():
            if line.startswith("$ "):
                examples.append((served, line[2:], []))
            else:
                examples[-1][2].append(line)
    return examples


def comparable(lines: list[str]) -> list[str]:
    """Lines without what differs from run to run: their order, the port, and how long it took."""
    return sorted(re.sub(r"in [\d.]+ ms|127\.0\.0\.1:\d+", "", line).rstrip() for line in lines)


@pytest.fixture(scope="module")
def demo(request: pytest.FixtureRequest) -> Iterator[ZkdnsServer]:
    with ZkdnsServer(*request.param.split()) as server:
        yield server.wait_ready()


def test_there_are_examples() -> None:
    assert len(console_examples()) >= 5
    assert len({served for served, _, _ in console_examples()}) == 2


@pytest.mark.parametrize(
    ("demo", "command", "output"),
    console_examples(),
    indirect=["demo"],
    ids=[command for _, command, _ in console_examples()],
)
def test_an_example_prints_what_the_readme_shows(demo: ZkdnsServer, command: str, output: list[str]) -> None:
    if command.startswith("dig ") and shutil.which("dig") is None:
        pytest.skip("there is no dig here")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ZKDNS_CONTROL": demo.control,
    }
    printed = subprocess.run(
        ["bash", "-c", command.replace(DEMO_PORT, str(demo.port))],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    ).stdout
    assert comparable(printed.splitlines()) == comparable(output)


def test_its_toml_files_are_accepted_and_hold_the_defaults(tmp_path: Path) -> None:
    fixed, configuration = blocks("toml")
    namespaces = load_config(flags={}, environment={}, file=None).namespaces
    assert parse_static(fixed, namespaces, origin="README.md")
    (tmp_path / "zkdns.toml").write_text(configuration, encoding="utf-8")
    written = load_config(flags={}, environment={}, file=str(tmp_path / "zkdns.toml"))
    default = load_config(flags={"zookeeper": written.zookeeper}, environment={}, file=None)
    differing = {
        field for field in written.__struct_fields__ if getattr(written, field) != getattr(default, field)
    }
    assert differing == {"service", "forward"}
    (tmp_path / "zkdns.toml").write_text(
        re.sub(r"^# (?=[a-z_]+ = )", "", configuration, flags=re.MULTILINE), encoding="utf-8"
    )
    load_config(flags={}, environment={}, file=str(tmp_path / "zkdns.toml"))


def test_its_member_is_what_is_read_and_written() -> None:
    (data,) = blocks("json")
    member = decode_member("member_0000000318", data.encode())
    assert encode_member(member) == data.strip().encode()


def test_every_command_is_named() -> None:
    assert [name for name in commands() if f"zkdns {name}" not in README.replace(held(README), "")] == []


def test_the_first_command_serves_the_example_from_a_fresh_copy() -> None:
    """In an empty environment, with no other file than the project's own; only the ports are others."""
    command = blocks("sh")[0].strip()
    assert command.endswith("zkdns serve --demo")
    directory = Path(tempfile.mkdtemp(prefix="zkdns-readme-"))
    for name in ("pyproject.toml", "README.md", "zkdns"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, directory / name)
    environment = {
        **{name: value for name, value in os.environ.items() if name.startswith("PIP_") or name == "HOME"},
        "PATH": os.pathsep.join([str(Path(sys.base_prefix) / "bin"), "/usr/local/bin", "/usr/bin", "/bin"]),
        "ZKDNS_LISTEN": "127.0.0.1:0",
        "ZKDNS_ADMIN": "none",
        "ZKDNS_CONTROL": "none",
    }
    output = directory / "output"
    with output.open("wb") as out:
        process = subprocess.Popen(
            guarded(["bash", "-c", command], remove=str(directory)),
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        eventually(lambda: "Ctrl-C ends it." in output.read_text() or process.poll() is not None, timeout=180)
        line = next(line for line in output.read_text().splitlines() if line.startswith("  dig @"))
        assert re.fullmatch(r"  dig @127\.0\.0\.1 -p \d+ web\.staging\.discovery A +# .*", line)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
        shutil.rmtree(directory, ignore_errors=True)


def run_python(program: str, directory: Path) -> list[str]:
    """The lines that it prints."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout.splitlines()


def test_its_python_runs_against_a_real_zookeeper(zookeeper: ZooKeeperServer, tmp_path: Path) -> None:
    program = "".join(blocks("python")[:2]).replace("zk01:2181,zk02:2181,zk03:2181", zookeeper.address)
    path, endpoints = run_python(program, tmp_path)
    assert re.fullmatch(r"/discovery/prod/web/member_\d{10}", path)
    assert endpoints == "()"  # the registration is closed by then


@pytest.mark.skipif(bool(memcached_is_missing()), reason=memcached_is_missing())
def test_its_balancers_run_against_real_servers(tmp_path: Path) -> None:
    program = "".join(blocks("python")[2:])
    assert f'caches.pick("user:7"))  # {Ring(["10.0.0.1:11211", "10.0.0.2:11211"]).pick("user:7")}' in program
    (tmp_path / "echo.thrift").write_text(IDL)
    with contextlib.ExitStack() as stack:
        webs = [stack.enter_context(WebServer()) for _ in range(2)]
        caches = [stack.enter_context(MemcachedServer()) for _ in range(2)]
        echoes = [stack.enter_context(EchoServer()) for _ in range(2)]
        endpoints = {
            8080: [web.endpoint for web in webs],
            11211: [cache.endpoint for cache in caches],
            9090: [echo.endpoint for echo in echoes],
        }
        for port, started in endpoints.items():
            for number, endpoint in enumerate(started, 1):
                program = program.replace(f'"10.0.0.{number}:{port}"', f'"{endpoint}"')
        two_hundred, again, picked, name, echoed = run_python(program, tmp_path)
    assert (two_hundred, again) == ("200", "200")
    assert [asked.host for web in webs for asked in web.asked] == ["web", "web"]
    assert picked in endpoints[11211]
    assert (name, echoed) == ("b'Ada'", "hello")
