"""Asking name servers, and this machine's own resolver, as programs here do."""

from __future__ import annotations

import socket
import threading

import dnslib
import msgspec

from zkdns.address import HostPort
from zkdns.errors import ZkdnsError
from zkdns.transport.sockets import socket_address

_LARGEST = 65535
_ROOT = ("", ".")


class AskedError(ZkdnsError):
    """Nobody answered, or not what was asked; the text says why."""


class Answer(msgspec.Struct, frozen=True):
    """What a name server answered."""

    rcode: str
    is_authoritative: bool
    soa: str | None
    """The SOA's owner and two names, of the answer or of the authority section; None: there is none."""


def ask(
    server: HostPort, name: str, qtype: str = "SOA", *, tcp: bool = False, seconds: float = 2.0
) -> Answer:
    """Ask a name server.

    Args:
        server: an IP address and a port.
        name: absolute, with or without the dot.
        qtype: a record type's name.
        tcp: whether over TCP, else over UDP.
        seconds: to wait.

    Raises:
        AskedError: nobody answers there.
    """
    question = dnslib.DNSQuestion("." if name in _ROOT else name, dnslib.QTYPE.reverse[qtype])
    query = dnslib.DNSRecord(dnslib.DNSHeader(rd=1), q=question)
    try:
        message = (_over_tcp if tcp else _over_udp)(server, query.pack(), seconds)
    except TimeoutError:
        raise AskedError(f"does not answer within {seconds:g} s") from None
    except OSError as error:
        raise AskedError(f"cannot be asked: {error.strerror or error}") from None
    try:
        response = dnslib.DNSRecord.parse(message)
    except (dnslib.DNSError, ValueError):
        raise AskedError("answers what is no DNS") from None
    if response.header.id != query.header.id or not response.header.qr:
        raise AskedError("answers another question")
    records = [*response.rr, *response.auth]
    found = [
        f"{record.rname} {record.rdata.mname} {record.rdata.rname}"
        for record in records
        if isinstance(record.rdata, dnslib.SOA)  # and not one without data
    ]
    rcode = str(dnslib.RCODE.get(response.header.rcode))
    return Answer(rcode, bool(response.header.aa), found[0].lower() if found else None)


def _over_udp(server: HostPort, query: bytes, seconds: float) -> bytes:
    family, at = socket_address(server.host, server.port)
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(seconds)
        sock.connect(at)
        sock.send(query)
        return sock.recv(_LARGEST)


def _over_tcp(server: HostPort, query: bytes, seconds: float) -> bytes:
    family, at = socket_address(server.host, server.port)
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(seconds)
        sock.connect(at)
        sock.sendall(len(query).to_bytes(2) + query)
        with sock.makefile("rb") as stream:
            return stream.read(int.from_bytes(stream.read(2)))


def system_addresses(name: str, *, seconds: float = 10.0) -> tuple[str, ...]:
    """The addresses that programs on this machine get for a name, each once (getaddrinfo(3)).

    Args:
        name: absolute or not, as programs have it.
        seconds: to wait; glibc waits longer where name servers are silent.

    Raises:
        AskedError: they get none; the text is what they are told.
    """
    found: list[tuple[str, ...] | AskedError] = []

    def work() -> None:
        try:
            infos = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            found.append(AskedError(getattr(error, "strerror", None) or str(error)))
        else:
            found.append(tuple(dict.fromkeys(str(info[4][0]) for info in infos)))

    thread = threading.Thread(target=work, name="getaddrinfo", daemon=True)
    thread.start()
    thread.join(seconds)
    result = found[0] if found else AskedError(f"no answer within {seconds:g} s")
    if isinstance(result, AskedError):
        raise result
    return result
