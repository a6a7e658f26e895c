"""systemd-resolved, started by hand with the zone routed to the server, and a D-Bus for `resolvectl`.

No systemd need run, nor need the package be installed, which would change the machine's own resolver: what
`tests/run` has unpacked into .tests/systemd-resolved is found too.
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

from tests.clients.client import Client, Ended, Found, MissingError, Workplace, find, records
from tests.clients.tools import DIG
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
        raise MissingError("needs systemd-resolved")
    return found


def _environment() -> list[str]:
    """Variables for `env`."""
    libraries = [
        str(library.parent) for library in _UNPACKED.glob("usr/lib/*/systemd/libsystemd-shared-*.so")
    ]
    return ["DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/bus", *(f"LD_LIBRARY_PATH={each}" for each in libraries)]


@contextlib.contextmanager
def resolved(directory: Path) -> Iterator[Machine]:
    """A machine whose resolver is systemd-resolved's stub, and on which `resolvectl` works.

    Raises:
        MissingError: without programs that run.
    """
    run = runtime_directory(directory, _CONF)
    machine = Machine(directory / "machine", STUB, {"/run": run, **accounts(directory)})
    with started(machine.prefix, directory):
        yield machine


def runtime_directory(directory: Path, conf: str) -> Path:
    """What is to be /run, with these settings."""
    run = directory / "run"
    drop_ins = run / "systemd" / "resolved.conf.d"
    drop_ins.mkdir(parents=True)
    run.chmod(0o755)  # systemd-resolved gives up being root
    (drop_ins / "zz-zkdns.conf").write_text(conf)
    return run


@contextlib.contextmanager
def started(prefix: list[str], directory: Path) -> Iterator[None]:
    """systemd-resolved and a D-Bus, as this prefix runs programs, with the directory's `run` as /run.

    Raises:
        MissingError: without programs that run.
    """
    program, bus = _program("systemd-resolved"), find("dbus-daemon")
    if bus is None:
        raise MissingError("needs dbus-daemon")
    probe = ["env", *_environment(), program, "--version"]
    tried = subprocess.run(probe, check=False, capture_output=True, text=True)
    if tried.returncode != 0:  # unpacked, it comes without the libraries that it needs
        raise MissingError(f"systemd-resolved does not run: {tried.stderr.strip()}")
    run, bus_conf = directory / "run", directory / "bus.conf"
    bus_conf.write_text(_BUS)
    with contextlib.ExitStack() as stack:
        (run / "bus").unlink(missing_ok=True)  # of one that was started before
        bus_command = [*prefix, bus, "--nofork", f"--config-file={bus_conf}"]
        stack.enter_context(running(bus_command, directory / "bus.log"))
        eventually((run / "bus").exists, _START_SECONDS)
        command = [*prefix, "env", *_environment(), program]
        stack.enter_context(running(command, directory / "log"))
        asked = dns.message.make_query("localhost", "A")
        eventually(lambda: dns.query.udp(asked, STUB, timeout=0.5), _START_SECONDS)
        yield


def accounts(directory: Path) -> dict[str, Path]:
    """The machine's users and groups, with the one that systemd-resolved becomes."""
    files = {}
    for place, entry in (
        ("/etc/passwd", f"{_USER}:x:{_ID}:{_ID}::/:/bin/false"),
        ("/etc/group", f"{_USER}:x:{_ID}:"),
    ):
        known = Path(place).read_text()
        files[place] = directory / Path(place).name
        files[place].write_text(known if f"{_USER}:" in known else f"{known.rstrip()}\n{entry}\n")
    return files


def _command(_: Workplace, kind: str, name: str) -> list[str]:
    """Addresses of programs that want to connect, and other records by their type."""
    how = {"A": ["-4"], "AAAA": ["-6"], "both": []}.get(kind, [f"--type={kind}"])
    return resolvectl("--legend=no", "query", *how, name)


def resolvectl(*arguments: str) -> list[str]:
    """The command on that machine."""
    return ["env", *_environment(), _program("resolvectl"), *arguments]


def _read(ended: Ended) -> Found:
    """Lines with an address (the first behind the name), or with a record; behind either may stand a link."""
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
