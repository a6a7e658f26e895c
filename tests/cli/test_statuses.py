"""The exit statuses of commands: a case for each status in the table of the page cli."""

import signal
import socket
from pathlib import Path

import pytest

from tests.cli import SERVED, Command, run
from tests.support.server import ZkdnsServer
from zkdns.cli.statuses import ExitStatus

pytestmark = pytest.mark.processes

CASES = {
    0: ["lookup web.staging.discovery", "check --demo", "completion bash", "dump --zone"],
    1: ["lookup staging.discovery", "accept --all", "flush", "history nothing.staging"],
    2: ["check --ttl soon", "lookup a..b", "accept", "dump", "completion tcsh", "lokup", "lookup"],
    3: [
        "lookup x --dns 127.0.0.1:1",
        "accept --all --server {nowhere}",
        "explain x --server http://127.0.0.1:1",
    ],
    5: ["serve --demo --listen 203.0.113.1:0 --admin none"],
}


@pytest.mark.parametrize(
    ("status", "typed"), [(status, typed) for status in CASES for typed in CASES[status]]
)
def test_commands_exit_with_their_status(status: int, typed: str, demo: ZkdnsServer, tmp_path: Path) -> None:
    variables = {"ZKDNS_ADMIN_SOCKET": demo.api}
    ended = run(*typed.format(nowhere=tmp_path / "api").split(), environment=variables)
    assert ended.status == status, ended.errors
    assert bool(ended.errors) == bool(status) or typed.startswith("lookup staging")


def test_a_server_that_gets_a_signal_exits_with_0() -> None:
    with Command("serve", "--demo", "--listen", "127.0.0.1:0", "--admin", "none") as command:
        command.wait_logged("server_ready").signal(signal.SIGINT)
        assert command.wait() == 0


@pytest.mark.parametrize(
    ("status", "program"),
    [(126, [str(Path(__file__).parent)]), (127, ["/nowhere/program"]), (7, ["sh", "-c", "exit 7"])],
)
def test_register_exits_with_the_status_of_the_program(
    status: int, program: list[str], environment: dict[str, str]
) -> None:
    assert run("register", *SERVED, "--", *program, environment=environment).status == status


def test_a_command_that_ctrl_c_ends_before_it_was_done_exits_with_130() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with Command("lookup", "web", "--dns", address, "--timeout", "60s") as command:
            assert silent.recv(4096)
            command.signal(signal.SIGINT)
            assert command.wait() == ExitStatus.INTERRUPTED
            assert "Traceback" not in command.errors


def test_every_status_has_a_case() -> None:
    # 4 and 141 are in test_output_failures.py, 130 in test_wait.py.
    assert sorted([*CASES, 4, 126, 127, 130, 141]) == sorted(ExitStatus)
