"""Listening sockets and limits, from proc(5)."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from zkdns.address import HostPort
from zkdns.host.doctor.processes import listeners, open_files_of, own_rights, parse_sockets

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs proc(5)")

_TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 3500007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2
   1: 0100007F:0035 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4712 2
   2: 0000000000000000FFFF00000100007F:14B4 00000000000000000000000000000000:0000 07 0:0 0:0 0 0 0 4713 2
 broken
"""


@pytest.mark.skipif(sys.byteorder != "little", reason="the table is from a little-endian machine")
def test_a_table_of_sockets_without_those_with_a_peer() -> None:
    found = list(parse_sockets(_TABLE, "07"))
    assert found == [(HostPort("127.0.0.53", 53), "4711"), (HostPort("127.0.0.1", 5300), "4713")]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_own_sockets_are_found(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as udp, socket.socket(family, socket.SOCK_STREAM) as tcp:
        udp.bind((host, 0))
        tcp.bind((host, 0))
        bound = HostPort(host, tcp.getsockname()[1])
        assert not [one for one in listeners() if one.protocol == "tcp" and one.at == bound]
        tcp.listen()
        for protocol, sock in (("udp", udp), ("tcp", tcp)):
            at = HostPort(host, sock.getsockname()[1])
            (listener,) = [one for one in listeners() if (one.protocol, one.at) == (protocol, at)]
            assert (listener.pid, listener.is_zkdns) == (os.getpid(), False)
            assert listener.name == Path("/proc/self/comm").read_text().strip()
            assert str(listener) == f"{listener.name} (pid {os.getpid()})"


@pytest.mark.skipif(sys.byteorder != "little", reason="the table is from a little-endian machine")
def test_a_socket_of_systemd_and_its_service_belongs_to_the_service(tmp_path: Path) -> None:
    for pid, comm, cmdline in (
        (1, "systemd", "/sbin/init"),
        (40, "python3", "python3\0/usr/bin/zkdns\0serve"),
    ):
        (tmp_path / str(pid) / "fd").mkdir(parents=True)
        (tmp_path / str(pid) / "fd" / "3").symlink_to("socket:[4711]")
        (tmp_path / str(pid) / "comm").write_text(f"{comm}\n")
        (tmp_path / str(pid) / "cmdline").write_text(cmdline)
    (tmp_path / "self" / "net").mkdir(parents=True)
    (tmp_path / "self" / "net" / "udp").write_text(_TABLE)
    first, second = listeners(tmp_path)
    assert (first.pid, first.name, first.is_zkdns) == (40, "zkdns", True)
    assert (second.pid, str(second)) == (None, "another user's program")
    (tmp_path / "40" / "fd" / "3").unlink()
    assert str(listeners(tmp_path)[0]) == "systemd (pid 1)"


def test_own_limits_and_rights() -> None:
    limits = open_files_of("self")
    assert limits is not None
    assert limits[0] <= limits[1]
    rights = own_rights()
    assert rights.first_free_port <= 1024 or os.geteuid() != 0
    if rights.is_privileged:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.199", 53))


def test_missing_files_mean_unknown(tmp_path: Path) -> None:
    assert listeners(tmp_path) == []
    assert open_files_of(1, tmp_path) is None
