"""A whole server over TCP: what is asked on one connection, and answers that are too long even for that."""

from __future__ import annotations

import contextlib
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import pytest

from tests.support.server import ZkdnsServer
from tests.support.upstream import UpstreamServer, is_slow
from tests.support.waiting import eventually

pytestmark = [pytest.mark.processes, pytest.mark.punctual]

OWN, LATE = "web.staging.discovery", "www.example"
SECONDS = 10.0
CUT = "tcp_responses_truncated"
FIGURE = 'zkdns_tcp_truncated_responses_total{worker="0"}'


def framed(*messages: dns.message.Message) -> bytes:
    """Queries as a stream has them."""
    return b"".join(len(wire).to_bytes(2) + wire for wire in (message.to_wire() for message in messages))


@contextlib.contextmanager
def connected() -> Iterator[socket.socket]:
    """A connection to a server whose upstream takes its time."""
    with (
        UpstreamServer(is_slow(0.5)) as upstream,
        ZkdnsServer("--demo", f"--upstream={upstream.address}") as server,
        socket.create_connection(("127.0.0.1", server.wait_ready().port), SECONDS) as sock,
    ):
        yield sock


def metrics_of(server: ZkdnsServer) -> list[str]:
    """The lines of what Prometheus is told."""
    with urllib.request.urlopen(f"{server.admin}/metrics", timeout=SECONDS) as metrics:  # noqa: S310 - of our own
        return [line.decode().rstrip("\n") for line in metrics]


def hear(sock: socket.socket) -> dns.message.Message:
    """The next answer."""
    message, _ = dns.query.receive_tcp(sock)
    return message


def test_dns_27_what_is_there_is_not_kept_waiting_by_what_is_asked_of_others() -> None:
    """RFC 7766 §6.2.1.1, §7: pipelined queries are answered in the order in which answers are there."""
    late, own = dns.message.make_query(LATE, "A"), dns.message.make_query(OWN, "A")
    with connected() as sock:
        sock.sendall(framed(late, own, own))
        heard = [hear(sock) for _ in range(3)]
        assert [response.id for response in heard] == [own.id, own.id, late.id]
        assert all(response.answer for response in heard)


def test_dns_28_after_a_half_close_what_is_asked_of_others_still_arrives() -> None:
    late, own = dns.message.make_query(LATE, "A"), dns.message.make_query(OWN, "A")
    with connected() as sock:
        for byte in framed(late, own):
            sock.sendall(bytes([byte]))
        sock.shutdown(socket.SHUT_WR)
        assert {hear(sock).id, hear(sock).id} == {own.id, late.id}
        assert sock.recv(1) == b""


def test_dns_30_what_is_cut_over_tcp_is_counted_and_logged(tmp_path: Path) -> None:
    """consul#3850: nobody else would notice that records are missing."""
    members = ", ".join(f'"10.1.{number >> 8}.{number & 255}:80"' for number in range(5000))
    services = tmp_path / "services.toml"
    services.write_text(f'[services."web.staging"]\nmembers = [{members}]\n')
    with ZkdnsServer("--static", str(services)) as server:
        server.wait_ready()
        assert server.query(OWN, "A").flags & dns.flags.TC  # which is no reason to tell anybody
        response = server.query(OWN, "A", tcp=True, timeout=SECONDS)
        assert response.flags & dns.flags.TC
        assert len(response.answer[0]) > 4000
        (told,) = eventually(lambda: server.events(CUT))
        assert (told["level"], told["count"]) == ("warning", 1)
        eventually(lambda: f"{FIGURE} 1.0" in metrics_of(server))
