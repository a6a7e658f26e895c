"""A DNS hierarchy on loopback: a root server, a server for the zone `example`, and a recursive resolver.

    unbound ──▶ root (NSD): referral to example
       └──────▶ example (NSD): addresses

Each server has its own loopback address and port 53, so the hierarchy needs a separate network namespace.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query
import pytest

from tests.support.process_guard import running
from tests.support.waiting import eventually

ROOT, EXAMPLE, RESOLVER = "127.0.0.3", "127.0.0.4", "127.0.0.2"
_START_SECONDS = 30.0
_PROGRAMS = {"unbound": "unbound", "nsd": "nsd"}
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # usually only on the PATH of root

_ZONE = """\
$TTL 300
{apex} SOA ns.{apex} host.{apex} 1 7200 3600 1209600 60
{apex} NS {name_server}
{records}
"""
_NSD = """\
server:
    ip-address: {address}@53
    server-count: 1
    username: ""
    chroot: ""
    zonesdir: "{directory}"
    database: ""
    zonelistfile: "{directory}/zone.list"
    xfrdfile: "{directory}/xfrd.state"
    xfrdir: "{directory}"
    pidfile: "{directory}/pid"
    rrl-ratelimit: 0
remote-control:
    control-enable: no
zone:
    name: {apex}
    zonefile: "{directory}/zone"
"""
_UNBOUND = """\
server:
    interface: {address}@53
    num-threads: 1
    do-ip6: no
    do-daemonize: no
    username: ""
    chroot: ""
    directory: "{directory}"
    pidfile: "{directory}/pid"
    use-syslog: no
    access-control: 127.0.0.0/8 allow
    do-not-query-localhost: no
    module-config: "iterator"
    root-hints: "{directory}/hints"
remote-control:
    control-enable: no
"""


def skip_without_programs() -> None:
    """Skip the test if unbound or NSD is missing."""
    missing = [package for program, package in _PROGRAMS.items() if _find(program) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)} (Debian and Ubuntu: apt install {' '.join(missing)})")


@contextlib.contextmanager
def dns_hierarchy(directory: Path, records: str) -> Iterator[str]:
    """Run the hierarchy in the network of this thread; yields the address of the resolver.

    Args:
        directory: for the files of the servers.
        records: the records of the zone `example`, in zone file format.
    """
    root = f"ns.root. A {ROOT}\nexample. NS ns.example.\nns.example. A {EXAMPLE}\n"
    records = f"ns.example. A {EXAMPLE}\n{textwrap.dedent(records)}"
    with contextlib.ExitStack() as stack:
        for name, apex, server, text in (
            ("root", ".", "ns.root.", root),
            ("example", "example.", "ns.example.", records),
        ):
            own = directory / name
            own.mkdir()
            zone = _ZONE.format(apex=apex, name_server=server, records=text).replace("..", ".")
            (own / "zone").write_text(zone)
            address = ROOT if apex == "." else EXAMPLE
            conf = _NSD.format(address=address, directory=own, apex=apex)
            stack.enter_context(_running("nsd", own, conf))
            eventually(lambda: _is_answering(address, apex), _START_SECONDS)  # noqa: B023 - called in this iteration
        own = directory / "resolver"
        own.mkdir()
        (own / "hints").write_text(f". 300 NS ns.root.\nns.root. 300 A {ROOT}\n")
        stack.enter_context(_running("unbound", own, _UNBOUND.format(address=RESOLVER, directory=own)))
        eventually(lambda: _is_answering(RESOLVER, "example."), _START_SECONDS)
        yield RESOLVER


@contextlib.contextmanager
def _running(program: str, directory: Path, conf: str) -> Iterator[None]:
    """Run a program with this configuration."""
    found = _find(program)
    assert found is not None
    (directory / "conf").write_text(conf)
    with running([found, "-d", "-c", str(directory / "conf")], directory / "log"):
        yield


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{_SBIN}")


def _is_answering(address: str, name: str) -> bool:
    return bool(dns.query.udp(dns.message.make_query(name, "SOA"), address, timeout=1.0).answer)
