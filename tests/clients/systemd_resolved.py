"""systemd-resolved with a route for the zone to the server, and a D-Bus for `resolvectl`.

It needs no running systemd, and no installed package, which would change the resolver of the machine:
`tests/run` unpacks it into .tests/systemd-resolved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query

from tests.clients.client import (
    Client,
    ClientEnvironment,
    CompletedCommand,
    LookupResult,
    MissingProgramError,
    find,
    records,
)
from tests.clients.tool_clients import DIG
from tests.support.machine import Machine
from tests.support.process_guard import running
from tests.support.waiting import eventually

STUB = "127.0.0.53"
_UNPACKED = Path(__file__).parents[2] / ".tests" / "systemd-resolved"
_START_SECONDS = 30.0
_USER, _ID = "systemd-resolve", 61991
_CONF = """\
[Resolve]
DNS=127.0.0.1
Domains=staging.discovery ~discovery
LLMNR=no
MulticastDNS=no
"""
_BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=/run/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
"""


def _program(name: str) -> str:
    unpacked = next(
        (path for path in _UNPACKED.rglob(name) if path.is_file() and os.access(path, os.X_OK)), None
    )
    found = find(name) if unpacked is None else str(unpacked)
    if found is None:
        raise MissingProgramError("needs systemd-resolved")
    return found


def _environment() -> list[str]:
    """Variable assignments for `env`."""
    libraries = [
        str(library.parent) for library in _UNPACKED.glob("usr/lib/*/systemd/libsystemd-shared-*.so")
    ]
    return ["DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/bus", *(f"LD_LIBRARY_PATH={each}" for each in libraries)]


@contextlib.contextmanager
def resolved(directory: Path) -> Iterator[Machine]:
    """A machine with systemd-resolved as its resolver, and with `resolvectl`.

    Raises:
        MissingProgramError: if a program is missing or does not run.
    """
    run = runtime_directory(directory, _CONF)
    machine = Machine(directory / "machine", STUB, {"/run": run, **accounts(directory)})
    with started(machine.prefix, directory):
        yield machine


def runtime_directory(directory: Path, conf: str) -> Path:
    """Create a directory for /run, with these settings of systemd-resolved."""
    run = directory / "run"
    drop_ins = run / "systemd" / "resolved.conf.d"
    drop_ins.mkdir(parents=True)
    run.chmod(0o755)  # systemd-resolved drops root privileges
    (drop_ins / "zz-zkdns.conf").write_text(conf)
    return run


@contextlib.contextmanager
def started(prefix: list[str], directory: Path) -> Iterator[None]:
    """Run systemd-resolved and a D-Bus with this command prefix. `directory / "run"` must be mounted on /run.

    Raises:
        MissingProgramError: if a program is missing or does not run.
    """
    program, bus = _program("systemd-resolved"), find("dbus-daemon")
    if bus is None:
        raise MissingProgramError("needs dbus-daemon")
    probe = ["env", *_environment(), program, "--version"]
    tried = subprocess.run(probe, check=False, capture_output=True, text=True)
    if tried.returncode != 0:  # the unpacked package does not contain its libraries
        raise MissingProgramError(f"systemd-resolved does not run: {tried.stderr.strip()}")
    run, bus_conf = directory / "run", directory / "bus.conf"
    bus_conf.write_text(_BUS)
    with contextlib.ExitStack() as stack:
        (run / "bus").unlink(missing_ok=True)  # of a previous run
        bus_command = [*prefix, bus, "--nofork", f"--config-file={bus_conf}"]
        stack.enter_context(running(bus_command, directory / "bus.log"))
        eventually((run / "bus").exists, _START_SECONDS)
        command = [*prefix, "env", *_environment(), program]
        stack.enter_context(running(command, directory / "log"))
        query = dns.message.make_query("localhost", "A")
        eventually(lambda: dns.query.udp(query, STUB, timeout=0.5), _START_SECONDS)
        yield


def accounts(directory: Path) -> dict[str, Path]:
    """Copies of /etc/passwd and /etc/group with the user of systemd-resolved."""
    files = {}
    for place, entry in (
        ("/etc/passwd", f"{_USER}:x:{_ID}:{_ID}::/:/bin/false"),
        ("/etc/group", f"{_USER}:x:{_ID}:"),
    ):
        text = Path(place).read_text()
        files[place] = directory / Path(place).name
        files[place].write_text(text if f"{_USER}:" in text else f"{text.rstrip()}\n{entry}\n")
    return files


def _command(_: ClientEnvironment, query_type: str, name: str) -> list[str]:
    """Look up addresses as programs do before they connect, and other records by type."""
    options = {"A": ["-4"], "AAAA": ["-6"], "both": []}.get(query_type, [f"--type={query_type}"])
    return resolvectl("--legend=no", "query", *options, name)


def resolvectl(*arguments: str) -> list[str]:
    """The command line for `resolvectl`."""
    return ["env", *_environment(), _program("resolvectl"), *arguments]


def _read(ended: CompletedCommand) -> LookupResult:
    """Parse lines with an address (the first one after the name) or a record, optionally with a link."""
    text = re.sub(r"\s*-- link: \S+$", "", ended.stdout, flags=re.MULTILINE)
    found = re.findall(r"^(?:\S+: |\s+)([0-9a-f.:]+)$|IN SRV (.*)$", text, re.MULTILINE)
    failure = re.search(r"not found|does not have any RR", ended.stderr)
    return records([address or record for address, record in found], failure[0] if failure else ended.stderr)


RESOLVED = (
    dataclasses.replace(DIG, name="systemd-resolved's stub", resolved=True),
    Client(
        name="resolvectl",
        command=_command,
        read=_read,
        nxdomain="not found",
        nodata="does not have any RR",
        resolved=True,
    ),
)
