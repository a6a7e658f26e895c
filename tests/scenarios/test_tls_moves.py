"""An address moves from `listen` to `tls.listen`, and back, in one reload."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import dns.message
import dns.query
import pytest

from tests.scenarios.reloadable import MEMBERS, WEB, ReloadableServer, all_answered_with
from tests.support.loopback import free_port
from tests.support.steady_load import SteadyLoad
from tests.support.tls import CertificateAuthority
from tests.support.waiting import eventually

pytestmark = pytest.mark.processes

HOST = "127.0.0.1"
SECONDS = 10.0
_QUERIES = 8  # so that each worker gets some


def ask(port: int, context: ssl.SSLContext | None) -> set[str]:
    """The addresses in the response to a query over TLS, or over TCP."""
    query = dns.message.make_query(WEB, "A")
    if context is None:
        response = dns.query.tcp(query, HOST, SECONDS, port=port)
    else:
        response = dns.query.tls(query, HOST, SECONDS, port=port, ssl_context=context, server_hostname=HOST)
    return {str(record) for record in response.answer[0]}


def answers_over_udp(port: int) -> bool:
    """Whether a process receives queries over UDP; otherwise the kernel reports an error."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect((HOST, port))
        sock.settimeout(SECONDS)
        try:
            sock.send(dns.message.make_query(WEB, "A").to_wire())
            return bool(sock.recv(4096))
        except ConnectionRefusedError:
            return False


@pytest.mark.parametrize("workers", [1, 2])
def test_an_address_moves_to_tls_and_back(tmp_path: Path, workers: int) -> None:
    """Queries at the other address are answered all the time."""
    authority = CertificateAuthority(tmp_path)
    context = ssl.create_default_context(cafile=str(authority.file))
    other, moving = free_port(), free_port()
    tls = {"listen": [f"{HOST}:{moving}"], "certificate": str(authority.sign(HOST))}
    plain = [f"{HOST}:{other}", f"{HOST}:{moving}"]
    with ReloadableServer(tmp_path, listen=plain, ttl=5, workers=workers) as server:
        server.wait_ready()
        with SteadyLoad((HOST, other), WEB) as load:
            for _ in range(2):
                server.write(listen=plain[:1], tls=tls, ttl=5, workers=workers)
                server.reload()
                for _ in range(_QUERIES):
                    assert ask(moving, context) == set(MEMBERS)
                eventually(lambda: not answers_over_udp(moving))
                server.write(listen=plain, ttl=5, workers=workers)
                server.reload()
                for _ in range(_QUERIES):
                    assert ask(moving, None) == set(MEMBERS)
                    assert answers_over_udp(moving)
        assert all_answered_with(load, {5})
        assert "Traceback" not in server.log
