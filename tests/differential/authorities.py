"""Knot and NSD as authoritative servers of zone files, each on its own port of 127.0.0.1."""

import subprocess
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

import dns.message
import dns.query
import dns.rcode

from tests.bench.processes import find_program
from tests.support.loopback import free_port
from tests.support.process_guard import kill_guarded, start_guarded
from tests.support.waiting import eventually

_START_SECONDS = 20.0


class Authority:
    """A server. As a context manager it starts, waits until it serves all zones, and is killed at the end.

    Args:
        zones: zone files by name of the zone.
        directory: parent of the server's own directory.
    """

    name: ClassVar[str]
    program: ClassVar[str]

    def __init__(self, zones: Mapping[str, Path], directory: Path) -> None:
        self._zones = zones
        self._directory = directory / self.name
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def is_missing(cls) -> bool:
        """Whether the program is not installed."""
        return find_program(cls.program) is None

    def _configuration(self) -> str:
        raise NotImplementedError

    def _command(self, configuration: str) -> list[str]:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._directory.mkdir()
        file = self._directory / "conf"
        file.write_text(self._configuration())
        program = find_program(self.program)
        assert program is not None
        with (self._directory / "log").open("wb") as log:
            self._process = start_guarded([program, *self._command(str(file))], stdout=log, stderr=log)
        try:
            eventually(lambda: self._has_ended() or self._is_serving(), _START_SECONDS, 0.05)
            assert not self._has_ended(), self.log
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        kill_guarded(self._process)

    @property
    def log(self) -> str:
        """Everything the server has logged."""
        return (self._directory / "log").read_text(errors="replace")

    def _has_ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    def _is_serving(self) -> bool:
        return all(
            ask(dns.message.make_query(zone, "SOA"), "127.0.0.1", port=self.port, timeout=1.0).answer
            for zone in self._zones
            for ask in (dns.query.udp, dns.query.tcp)
        )


class Knot(Authority):
    name, program = "knot", "knotd"

    def _command(self, configuration: str) -> list[str]:
        return ["-c", configuration]

    def _configuration(self) -> str:
        head = f"""\
            server:
                rundir: "{self._directory}"
                listen: 127.0.0.1@{self.port}
                udp-workers: 1
                tcp-workers: 1
                background-workers: 1
                tcp-io-timeout: 0
            log:
              - target: stderr
                any: warning
            database:
                storage: "{self._directory}"
            zone:
            """
        zone = """\
              - domain: {name}
                file: "{file}"
                journal-content: none
            """
        return textwrap.dedent(head) + "".join(
            textwrap.indent(textwrap.dedent(zone.format(name=name, file=file)), "  ")
            for name, file in self._zones.items()
        )


class Nsd(Authority):
    name, program = "nsd", "nsd"

    def _command(self, configuration: str) -> list[str]:
        return ["-d", "-c", configuration]

    def _configuration(self) -> str:
        head = f"""\
            server:
                ip-address: 127.0.0.1@{self.port}
                server-count: 1
                username: ""
                chroot: ""
                zonesdir: "{self._directory}"
                database: ""
                zonelistfile: "{self._directory}/zone.list"
                xfrdfile: "{self._directory}/xfrd.state"
                xfrdir: "{self._directory}"
                pidfile: "{self._directory}/pid"
                verbosity: 0
                hide-version: yes
                hide-identity: yes
                minimal-responses: no
                rrl-ratelimit: 0
            remote-control:
                control-enable: no
            """
        zone = """\
            zone:
                name: "{name}"
                zonefile: "{file}"
            """
        return textwrap.dedent(head) + "".join(
            textwrap.dedent(zone.format(name=name, file=file)) for name, file in self._zones.items()
        )
