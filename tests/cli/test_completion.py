"""Completion in real shells, set up as on the page host-setup, and the proposals in each place."""

import contextlib
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli import SCRIPTS, propose, proposed
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from zkdns.cli import main
from zkdns.config import SETTINGS

pytestmark = [pytest.mark.processes, pytest.mark.punctual]

_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")
# What takes most of the time from the key to what it brings, where a command needs it.
_SLOW_TO_LOAD = {
    *(
        "aiohttp",
        "asyncio",
        "cachetools",
        "dnslib",
        "httpx2",
        "kazoo",
        "mmh3",
        "prometheus_client",
        "pymemcache",
    ),
    *("requests", "rich", "structlog", "thriftpy2"),
}
_MOST_MODULES = 500


@pytest.fixture
def environment(demo: ZkdnsServer, tmp_path: Path) -> dict[str, str]:
    """The variables of a user who has nothing set up, but zkdns on the PATH and a server that runs."""
    host, port = demo.addresses[0]
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("ZKDNS_")},
        "PATH": f"{SCRIPTS}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "TERM": "xterm",
        "ZKDNS_CONTROL": demo.control,
        "ZKDNS_SERVER": f"{host}:{port}",
        "ZKDNS_UPSTREAM": "none",
    }


def plain(*words: str) -> list[str]:
    return [f"plain,{word}" for word in words]


# -- what is proposed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("zkdns lo", ["lookup"]),
        ("zkdns lookup --ti", ["--timeout"]),
        ("zkdns lookup WEB", ["web.prod.discovery", "web.staging.discovery"]),
        ("zkdns lookup web.staging.discovery aa", ["AAAA"]),
        *(
            (f"zkdns {command} api.v", ["api.v2.staging.discovery"])
            for command in ("explain", "history", "wait")
        ),
        ("zkdns accept web", []),  # where nothing is held
        ("zkdns serve --order ", ["round-robin", "random", "fixed"]),
        ("zkdns serve --upstream ", ["auto", "none"]),
        ("zkdns check --log-format c", ["console"]),
        ("zkdns register web --environment ", ["local", "staging", "prod", "test"]),
        ("zkdns watch web --environment st", ["staging"]),
        ("zkdns completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_values_are_proposed(typed: str, words: list[str], environment: dict[str, str]) -> None:
    assert proposed(typed, environment) == plain(*words)


def test_all_commands_are_proposed(environment: dict[str, str]) -> None:
    assert proposed("zkdns ", environment) == plain(*main.list_commands(main.make_context("zkdns", ["x"])))


@pytest.mark.parametrize(
    "option", ["--config", *(row.flag for row in SETTINGS if row.in_flags and "FILE" in row.metavar)]
)
def test_files_are_left_to_the_shell(option: str, environment: dict[str, str]) -> None:
    assert proposed(f"zkdns serve {option} /etc/ho", environment) == ["file,/etc/ho"]


def test_where_no_server_is_nothing_is_proposed(environment: dict[str, str], tmp_path: Path) -> None:
    for control in (str(tmp_path / "control"), "none"):
        assert proposed("zkdns lookup we", {**environment, "ZKDNS_CONTROL": control}) == []
    assert proposed("zkdns lookup we", {**environment, "ZKDNS_TTL": "soon"}) == []
    assert proposed(f"zkdns accept --control {tmp_path}/none we", environment) == []


# -- how long it takes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "needed"),
    [
        ("zkdns ", set()),
        ("zkdns serve --", {"asyncio", "rich", "structlog"}),  # structlog loads rich where it is there
        ("zkdns lookup w", {"asyncio", "dnslib", "rich", "structlog"}),
        ("zkdns watch --", {"asyncio", "kazoo", "rich", "structlog"}),
    ],
)
def test_it_is_quick(typed: str, needed: set[str], environment: dict[str, str]) -> None:
    """It loads no more than it needs: that is nearly all of its time."""
    loaded = loaded_for(typed, environment)
    assert "click" in loaded
    assert {name.partition(".")[0] for name in loaded} & _SLOW_TO_LOAD <= needed
    assert len(loaded) < _MOST_MODULES


def loaded_for(typed: str, environment: dict[str, str]) -> set[str]:
    """The modules that are loaded to propose something."""
    lines = propose(typed, {**environment, "PYTHONPROFILEIMPORTTIME": "1"}).stderr.splitlines()
    assert all(line.startswith("import time:") for line in lines)
    return {line.rpartition("|")[2].strip() for line in lines}


def test_a_server_that_hangs_is_not_waited_for(environment: dict[str, str], short_path: Path) -> None:
    silent = str(short_path / "silent")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(silent)
        listener.listen()
        begun = time.monotonic()
        assert proposed("zkdns lookup w", {**environment, "ZKDNS_CONTROL": silent}) == []
        assert time.monotonic() - begun < 10


# -- in real shells -----------------------------------------------------------------------------------------


class Shell:
    """An interactive shell in a terminal; closing that ends it."""

    def __init__(self, *command: str, environment: dict[str, str], cwd: Path) -> None:
        self._master, slave = pty.openpty()
        os.set_blocking(self._master, False)
        self._written = bytearray()
        self._process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**environment, "PS1": "> "},
            cwd=cwd,
            start_new_session=True,
        )
        os.close(slave)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._master)

    def type(self, keys: str, shown: str) -> None:
        """Type, and wait until this is on the screen, behind all that was there before."""
        before = len(self._screen())
        os.write(self._master, keys.encode())
        try:
            eventually(lambda: shown in self._screen()[before:] or None, 15.0)
        except AssertionError as error:
            error.add_note(self._screen())
            raise

    def _screen(self) -> str:
        with contextlib.suppress(BlockingIOError, OSError):
            while chunk := os.read(self._master, 65536):
                self._written += chunk
        return _CONTROLS.sub("", self._written.decode(errors="replace"))


def skip_without(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here (apt install {shell})")


def set_up(shell: str, place: Path, environment: dict[str, str]) -> None:
    """Write the script to the place that the page host-setup names."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("wb") as script:
        subprocess.run(["zkdns", "completion", shell], env=environment, stdout=script, check=True)


def use(shell: Shell) -> None:
    """Look an example up with as few keys as can be, and name a file."""
    shell.type("zkdns loo\t", "kup ")
    shell.type("ap\t", "i.v2.staging.discovery ")
    shell.type("AA\t", "AA ")
    shell.type("\n", "2001:db8::11")
    shell.type("zkdns check --static serv\t", "ices.toml")
    shell.type("\n", "right: discovery from")


def test_bash(environment: dict[str, str], tmp_path: Path) -> None:
    set_up("bash", tmp_path / "completions", environment)
    (tmp_path / "services.toml").write_text('[services."web.staging"]\n')
    with contextlib.closing(
        Shell("bash", "--noprofile", "--norc", "-i", environment=environment, cwd=tmp_path)
    ) as shell:
        shell.type("source completions; echo so''urced\n", "sourced")
        use(shell)


def test_zsh(environment: dict[str, str], tmp_path: Path) -> None:
    skip_without("zsh")
    set_up("zsh", tmp_path / "functions" / "_zkdns", environment)
    (tmp_path / "services.toml").write_text('[services."web.staging"]\n')
    with contextlib.closing(Shell("zsh", "-f", "-i", environment=environment, cwd=tmp_path)) as shell:
        shell.type("fpath=($PWD/functions $fpath); autoload -Uz compinit\n", "> ")
        shell.type("compinit -u -d $PWD/dump; echo re''ady\n", "ready")
        use(shell)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("zkdns loo", ["lookup"]),
        ("zkdns lookup ap", ["api.v2.staging.discovery"]),
        ("zkdns serve --order r", ["random", "round-robin"]),
        ("zkdns check --static serv", ["services.toml"]),
    ],
)
def test_fish(typed: str, words: list[str], environment: dict[str, str], tmp_path: Path) -> None:
    skip_without("fish")
    set_up("fish", tmp_path / "config" / "fish" / "completions" / "zkdns.fish", environment)
    (tmp_path / "services.toml").write_text("")
    lines = subprocess.run(
        ["fish", "-c", f"complete -C '{typed}'"],
        env=environment,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        timeout=20,
    ).stdout.splitlines()
    assert [line.partition("\t")[0] for line in lines] == words
