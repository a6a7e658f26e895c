"""Secondaries of Knot and NSD, which serve the zone file of `zkdns dump`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli import run
from tests.support.loopback import free_port
from tests.support.process_guard import kill_guarded, start_guarded
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.processes

ZONE = "discovery"
WEB = "web.staging.discovery"
STATIC = """
[services."web.staging"]
members = ["10.0.0.1:80", { host = "10.0.0.2", port = 80, additional = { admin = "10.0.0.9:9990" } }]
[services."db.prod"]
members = ["[2001:db8::1]:5432"]
"""

KNOT = """
server:
    listen: 127.0.0.1@{port}
    rundir: {directory}
database:
    storage: {directory}
log:
  - target: stderr
    any: info
acl:
  - id: all
    address: 127.0.0.0/8
    action: transfer
zone:
  - domain: discovery
    file: {zone}
    acl: all
    zonefile-load: difference
    journal-content: all
"""
NSD = """
server:
    ip-address: 127.0.0.1@{port}
    chroot: ""
    username: ""
    zonesdir: ""
    database: ""
    pidfile: {directory}/nsd.pid
    xfrdfile: {directory}/xfrd.state
    zonelistfile: {directory}/zone.list
remote-control:
    control-enable: no
zone:
    name: discovery
    zonefile: {zone}
    provide-xfr: 127.0.0.1 NOKEY
"""
SERVERS = {
    "knotd": (KNOT, ["knotd", "-c"]),
    "nsd": (NSD, ["nsd", "-d", "-c"]),
}


class OtherPrimary:
    """Knot or NSD."""

    def __init__(self, program: str, directory: Path) -> None:
        self.port = free_port()
        self.zone = directory / "discovery.zone"
        text, self._command = SERVERS[program]
        self._config = directory / "server.conf"
        self._config.write_text(text.format(port=self.port, directory=directory, zone=self.zone))

    @contextmanager
    def running(self) -> Iterator[None]:
        process = start_guarded([*self._command, str(self._config)])
        try:
            yield
        finally:
            kill_guarded(process)


def dump(*source: str) -> str:
    result = run("dump", "--zone", ZONE, *source)
    assert not result.status, result
    return result.output


def records(text: str) -> list[str]:
    """The lines of a zone file, without the SOA record."""
    return sorted(line for line in text.splitlines() if "\tSOA\t" not in line and not line.startswith(";"))


@pytest.mark.parametrize("program", list(SERVERS))
def test_the_zone_file_of_a_zkdns_served_by_another_server(program: str, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    static = tmp_path / "static.toml"
    static.write_text(STATIC)
    other = OtherPrimary(program, tmp_path)
    text = dump("--static", str(static))
    other.zone.write_text(text)
    secondary = ZkdnsServer("--primary", f"127.0.0.1:{other.port}", "--primary-refresh", "1")
    with secondary as server:
        with other.running():
            server.wait_ready()
            assert records(dump("--server", server.api)) == records(text)
            assert server.events("zone_digest_differs") == []
        eventually(lambda: server.events("zone_stale"))
        assert server.lookup(WEB) == {"10.0.0.1", "10.0.0.2"}
        # It starts again with another zone.
        static.write_text(STATIC.replace("10.0.0.2", "10.0.0.3"))
        other.zone.write_text(dump("--static", str(static)))
        with other.running():
            eventually(lambda: server.lookup(WEB) == {"10.0.0.1", "10.0.0.3"})
            assert server.events("zone_current")
