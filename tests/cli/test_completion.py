"""Shell completion: the values for each argument, and the scripts in real shells."""

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

from tests.cli import SCRIPTS, completion_request, completions
from tests.support.forked_command import SCRIPT
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from zkdns.cli import main
from zkdns.config import SETTINGS

pytestmark = pytest.mark.processes

_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")
# Packages that are slow to import: most of the time of a completion.
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
    *("pygments", "requests", "rich", "structlog", "thriftpy2"),
}
_MAX_MODULES = 500


@pytest.fixture
def environment(demo: ZkdnsServer, tmp_path: Path) -> dict[str, str]:
    """The variables of a user with `zkdns` on the PATH and a running server, without other configuration."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("ZKDNS_")},
        "PATH": f"{SCRIPTS}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "TERM": "xterm",
        "ZKDNS_ADMIN_SOCKET": demo.api,
        "ZKDNS_UPSTREAM": "none",
    }


def plain(*words: str) -> list[str]:
    return [f"plain,{word}" for word in words]


# -- completed values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("zkdns lo", ["lookup"]),
        ("zkdns -", ["-V", "--version", "-h", "--help"]),
        ("zkdns lookup --ti", ["--timeout"]),
        ("zkdns lookup WEB", ["web.prod.discovery", "web.staging.discovery"]),
        ("zkdns lookup web.staging.discovery aa", ["AAAA"]),
        *(
            (f"zkdns {command} api.v", ["api.v2.staging.discovery"])
            for command in ("explain", "history", "wait")
        ),
        ("zkdns accept web", []),  # there are no held members
        ("zkdns serve --order ", ["round-robin", "random", "fixed"]),
        ("zkdns serve --upstream ", ["auto", "none"]),
        ("zkdns check --log-format c", ["console"]),
        ("zkdns register web --environment ", ["local", "staging", "prod", "test"]),
        ("zkdns watch web --environment st", ["staging"]),
        ("zkdns completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_values_are_completed(typed: str, words: list[str], environment: dict[str, str]) -> None:
    assert completions(typed, environment) == plain(*words)


def test_all_commands_are_completed(environment: dict[str, str]) -> None:
    assert completions("zkdns ", environment) == plain(*main.list_commands(main.make_context("zkdns", ["x"])))


@pytest.mark.parametrize(
    "option", ["--config", *(row.flag for row in SETTINGS if row.in_flags and "FILE" in row.metavar)]
)
def test_files_are_completed_by_the_shell(option: str, environment: dict[str, str]) -> None:
    assert completions(f"zkdns serve {option} /etc/ho", environment) == ["file,/etc/ho"]


def test_without_a_server_there_are_no_completions(environment: dict[str, str], tmp_path: Path) -> None:
    for path in (str(tmp_path / "api"), "none"):
        assert completions("zkdns lookup we", {**environment, "ZKDNS_ADMIN_SOCKET": path}) == []
    assert completions("zkdns lookup we", {**environment, "ZKDNS_TTL": "soon"}) == []
    assert completions(f"zkdns accept --server {tmp_path}/none we", environment) == []


# -- duration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "needed"),
    [
        ("zkdns ", set()),
        ("zkdns serve --", {"asyncio", "rich", "structlog"}),  # an import of rich that fails
        ("zkdns lookup w", {"dnslib", "rich"}),
        ("zkdns wait w", {"rich"}),
        ("zkdns accept w", set()),
        ("zkdns watch --", {"asyncio", "kazoo", "rich", "structlog"}),
    ],
)
def test_a_completion_imports_few_modules(typed: str, needed: set[str], environment: dict[str, str]) -> None:
    """Importing modules takes nearly all of its time."""
    loaded = loaded_for(typed, environment)
    assert "click" in loaded
    assert {name.partition(".")[0] for name in loaded} & _SLOW_TO_LOAD <= needed
    assert len(loaded) < _MAX_MODULES


def loaded_for(typed: str, environment: dict[str, str]) -> set[str]:
    """The modules that are imported for a completion."""
    variables = {**environment, **completion_request(typed), "PYTHONPROFILEIMPORTTIME": "1"}
    ended = subprocess.run([SCRIPT], env=variables, check=True, capture_output=True, text=True, timeout=30)
    lines = ended.stderr.splitlines()
    assert all(line.startswith("import time:") for line in lines)
    return {line.rpartition("|")[2].strip() for line in lines}


def test_a_server_that_does_not_respond_does_not_block_completion(
    environment: dict[str, str], short_path: Path
) -> None:
    silent = str(short_path / "silent")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(silent)
        listener.listen()
        started_at = time.monotonic()
        assert completions("zkdns lookup w", {**environment, "ZKDNS_ADMIN_SOCKET": silent}) == []
        assert time.monotonic() - started_at < 10


# -- in real shells -----------------------------------------------------------------------------------------


class Shell:
    """An interactive shell in a terminal."""

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
        """Type keys, and wait until this text appears after the previous output."""
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
    """Write the script to the file that the page host-setup lists."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("wb") as script:
        subprocess.run(["zkdns", "completion", shell], env=environment, stdout=script, check=True)


def check_completion(shell: Shell) -> None:
    """Type a lookup and a file name with completion."""
    shell.type("zkdns loo\t", "kup ")
    shell.type("ap\t", "i.v2.staging.discovery ")
    shell.type("AA\t", "AA ")
    shell.type("\n", "2001:db8::11")
    shell.type("zkdns check --static serv\t", "ices.toml")
    shell.type("\n", "valid: discovery from")


def test_bash(environment: dict[str, str], tmp_path: Path) -> None:
    set_up("bash", tmp_path / "completions", environment)
    (tmp_path / "services.toml").write_text('[services."web.staging"]\n')
    with contextlib.closing(
        Shell("bash", "--noprofile", "--norc", "-i", environment=environment, cwd=tmp_path)
    ) as shell:
        shell.type("source completions; echo so''urced\n", "sourced")
        check_completion(shell)


def test_zsh(environment: dict[str, str], tmp_path: Path) -> None:
    skip_without("zsh")
    set_up("zsh", tmp_path / "functions" / "_zkdns", environment)
    (tmp_path / "services.toml").write_text('[services."web.staging"]\n')
    with contextlib.closing(Shell("zsh", "-f", "-i", environment=environment, cwd=tmp_path)) as shell:
        shell.type("fpath=($PWD/functions $fpath); autoload -Uz compinit\n", "> ")
        shell.type("compinit -u -d $PWD/dump; echo re''ady\n", "ready")
        check_completion(shell)


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
