"""Other DNS servers as processes of tests and benchmarks, and the settings that each of them needs here.

They run in the foreground, as this user, with one worker, and keep all files in a directory of their own.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import ClassVar, Self

from tests.bench.processes import find_program
from tests.support.loopback import free_port
from tests.support.process_guard import kill_guarded, start_guarded


class DnsProgram:
    """A server. Entering the context starts it; leaving the context kills it. It can be entered again.

    Args:
        directory: parent of its own directory.
    """

    name: ClassVar[str]
    program: ClassVar[str]
    package: ClassVar[str]
    """Name of the Debian and Ubuntu package."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / self.name
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def is_missing(cls) -> bool:
        """Whether the program is not installed."""
        return find_program(cls.program) is None

    def configuration(self) -> str:
        """The configuration file."""
        raise NotImplementedError

    def command(self, configuration: str) -> list[str]:
        """The arguments with which it uses this file."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.directory.mkdir(exist_ok=True)
        file = self.directory / "conf"
        file.write_text(self.configuration())
        program = find_program(self.program)
        assert program is not None
        command = [program, *self.command(str(file))]
        with (self.directory / "log").open("wb") as log:
            self._process = start_guarded(command, stdout=log, stderr=log, cwd=self.directory)
        return self

    def __exit__(self, *_: object) -> None:
        kill_guarded(self._running())

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def has_ended(self) -> bool:
        """Whether the process has exited."""
        return self._running().poll() is not None

    @property
    def log(self) -> str:
        """Everything that it has logged."""
        return (self.directory / "log").read_text(errors="replace")

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process


def knot_settings(directory: Path, port: int, *, log: str = "warning", **server: object) -> str:
    """The sections `server`, `log` and `database` of Knot; more settings of `server` by keyword."""
    settings = {
        "rundir": f'"{directory}"',
        "listen": f"127.0.0.1@{port}",
        "udp_workers": 1,
        "tcp_workers": 1,
        "background_workers": 1,
        **server,
    }
    end = f'log:\n  - target: stderr\n    any: {log}\ndatabase:\n    storage: "{directory}"\n'
    return _clause("server", settings) + end


def nsd_settings(directory: Path, port: int, **server: object) -> str:
    """The clauses `server` and `remote-control` of NSD; more settings of `server` by keyword."""
    settings = {
        "ip_address": f"127.0.0.1@{port}",
        "server_count": 1,
        "username": '""',
        "chroot": '""',
        "zonesdir": f'"{directory}"',
        "database": '""',
        "zonelistfile": f'"{directory}/zone.list"',
        "xfrdfile": f'"{directory}/xfrd.state"',
        "xfrdir": f'"{directory}"',
        "pidfile": f'"{directory}/pid"',
        "verbosity": 0,
        "rrl_ratelimit": 0,
        **server,
    }
    return _clause("server", settings) + _clause("remote-control", {"control_enable": "no"})


def unbound_settings(directory: Path, port: int, **server: object) -> str:
    """The clauses `server` and `remote-control` of unbound, without DNSSEC; more settings by keyword."""
    settings = {
        "interface": f"127.0.0.1@{port}",
        "num_threads": 1,
        "do_daemonize": "no",
        "username": '""',
        "chroot": '""',
        "directory": f'"{directory}"',
        "pidfile": f'"{directory}/pid"',
        "use_syslog": "no",
        "verbosity": 0,
        "access_control": "127.0.0.0/8 allow",
        "module_config": '"iterator"',
        **server,
    }
    return _clause("server", settings) + _clause("remote-control", {"control_enable": "no"})


def bind_settings(directory: Path, port: int) -> str:
    """The statements `options` and `controls` of BIND, as an authoritative server."""
    return f"""\
options {{
    directory "{directory}";
    pid-file none;
    session-keyfile none;
    managed-keys-directory "{directory}";
    listen-on port {port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    recursion no;
    dnssec-validation no;
    notify no;
}};
controls {{ }};
"""


def _clause(name: str, settings: dict[str, object]) -> str:
    lines = (f"    {key.replace('_', '-')}: {value}\n" for key, value in settings.items())
    return f"{name}:\n{''.join(lines)}"
