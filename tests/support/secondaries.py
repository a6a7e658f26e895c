"""Real secondaries: Knot, NSD, BIND and unbound, configured with the examples of the page `zone-transfer`."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import ClassVar, Self

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest

from tests.bench.processes import find_program
from tests.support.loopback import free_port
from tests.support.process_guard import kill_guarded, start_guarded
from tests.support.transfers import KEY_NAME, SECRET, ZONE

PAGE = Path(__file__).parents[2] / "zkdns" / "docs" / "zone-transfer.md"
_PRIMARY = "10.0.0.1"  # in the examples


def example(heading: str, number: int = 0) -> str:
    """An example of the page: the code block with this number below a heading."""
    _, _, section = PAGE.read_text().partition(f"### {heading}\n")
    found: list[str] = re.findall(r"```[a-z]*\n(.*?)```", section, re.DOTALL)
    return found[number]


class Secondary:
    """A secondary of a primary at 127.0.0.1.

    Entering the context starts it; leaving the context kills it.

    Args:
        directory: for its files.
        signed: whether it uses the key of `tests.support.transfers`.
    """

    name: ClassVar[str]
    program: ClassVar[str]
    package: ClassVar[str]

    def __init__(self, directory: Path, *, signed: bool = False) -> None:
        found = find_program(self.program)
        if found is None:
            pytest.skip(f"needs {self.program} (Debian and Ubuntu: apt install {self.package})")
        self.directory = directory / self.name
        self.directory.mkdir()
        self.port = free_port()
        self.primary = 0
        self.log = self.directory / "log"
        self._found, self._signed = found, signed

    def configure(self) -> list[str]:
        """Write the configuration, and return the command that runs the server in the foreground."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self._process = start_guarded(self.configure(), stdout=log, stderr=log, cwd=self.directory)
        return self

    def __exit__(self, *_: object) -> None:
        kill_guarded(self._process)

    @property
    def has_ended(self) -> bool:
        """Whether the process has exited."""
        return self._process.poll() is not None

    def serial(self) -> int | None:
        """The serial of the zone. None: it has no zone yet."""
        response = self.ask(ZONE, "SOA")
        if response is None or not response.answer:
            return None
        return int(response.answer[0][0].serial)

    def ask(self, name: str, qtype: str) -> dns.message.Message | None:
        """The response to a query over TCP. None: the server does not respond."""
        query = dns.message.make_query(name, qtype)
        query.flags = 0
        with contextlib.suppress(OSError, dns.exception.DNSException):
            return dns.query.tcp(query, "127.0.0.1", port=self.port, timeout=5.0)
        return None

    def answers(self, name: str, qtype: str) -> set[tuple[str, str, int, str]]:
        """The records of a name and type, as `tests.support.transfers.records_of`."""
        response = self.ask(name, qtype)
        assert response is not None
        return {
            (rrset.name.to_text(), qtype, rrset.ttl, rdata.to_text())
            for rrset in response.answer
            for rdata in rrset
        }

    def _write(self, text: str) -> str:
        path = self.directory / "conf"
        path.write_text(text)
        return str(path)


class Knot(Secondary):
    """Knot DNS."""

    name, program, package = "knot", "knotd", "knot"

    def configure(self) -> list[str]:
        text = example("Knot DNS").replace(
            f"address: {_PRIMARY}\nacl", f"address: 127.0.0.1@{self.primary}\nacl"
        )
        text = text.replace(_PRIMARY, "127.0.0.1")
        if self._signed:
            text = text.replace("- id: zkdns\n", "- id: zkdns\n    key: secondary-key\n")
            text = text.replace(
                "- id: notify_from_zkdns\n", "- id: notify_from_zkdns\n    key: secondary-key\n"
            )
            text = example("Knot DNS", 1) + text
            assert SECRET in text
            text = text.replace("secondary-key", KEY_NAME)
        text = f"""\
server:
    rundir: "{self.directory}"
    listen: 127.0.0.1@{self.port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: info
database:
    storage: "{self.directory}"
{text}"""
        return [self._found, "-c", self._write(text)]


class Nsd(Secondary):
    """NSD."""

    name, program, package = "nsd", "nsd", "nsd"

    def configure(self) -> list[str]:
        text = example("NSD").replace(f"request-xfr: {_PRIMARY}", f"request-xfr: 127.0.0.1@{self.primary}")
        text = text.replace(_PRIMARY, "127.0.0.1")
        key = ""
        if self._signed:
            text = text.replace("NOKEY", KEY_NAME)
            key = f'key:\n    name: {KEY_NAME}\n    algorithm: hmac-sha256\n    secret: "{SECRET}"\n'
        text = f"""\
server:
    ip-address: 127.0.0.1@{self.port}
    server-count: 1
    username: ""
    chroot: ""
    zonesdir: "{self.directory}"
    database: ""
    zonelistfile: "{self.directory}/zone.list"
    xfrdfile: "{self.directory}/xfrd.state"
    xfrdir: "{self.directory}"
    pidfile: "{self.directory}/pid"
    verbosity: 2
    rrl-ratelimit: 0
remote-control:
    control-enable: no
{key}{text}"""
        return [self._found, "-d", "-c", self._write(text)]


class Bind(Secondary):
    """BIND."""

    name, program, package = "bind", "named", "bind9"

    def configure(self) -> list[str]:
        key = f" key {KEY_NAME}" if self._signed else ""
        text = example("BIND").replace(f"{{ {_PRIMARY}; }}", f"{{ 127.0.0.1 port {self.primary}{key}; }}")
        assert str(self.primary) in text
        if self._signed:
            text = f'key {KEY_NAME} {{ algorithm hmac-sha256; secret "{SECRET}"; }};\n{text}'
        text = f"""\
options {{
    directory "{self.directory}";
    pid-file none;
    session-keyfile none;
    managed-keys-directory "{self.directory}";
    listen-on port {self.port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    recursion no;
    dnssec-validation no;
    notify no;
}};
controls {{ }};
{text}"""
        return [self._found, "-g", "-n", "1", "-c", self._write(text)]


class Unbound(Secondary):
    """unbound with an `auth-zone`. It does not support TSIG."""

    name, program, package = "unbound", "unbound", "unbound"

    def configure(self) -> list[str]:
        text = example("unbound").replace(f"primary: {_PRIMARY}", f"primary: 127.0.0.1@{self.primary}")
        text = text.replace(_PRIMARY, "127.0.0.1")
        text = f"""\
server:
    interface: 127.0.0.1@{self.port}
    num-threads: 1
    do-ip6: no
    do-daemonize: no
    do-not-query-localhost: no
    username: ""
    chroot: ""
    directory: "{self.directory}"
    pidfile: "{self.directory}/pid"
    use-syslog: no
    verbosity: 2
    module-config: "iterator"
    access-control: 127.0.0.0/8 allow
remote-control:
    control-enable: no
{text}"""
        return [self._found, "-d", "-c", self._write(text)]


SECONDARIES: tuple[type[Secondary], ...] = (Knot, Nsd, Bind, Unbound)
