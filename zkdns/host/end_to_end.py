"""End-to-end checks: does a service's name reach zkdns the way programs on this machine resolve it?

a name of the zone ─▶ getaddrinfo ─▶ … ─▶ zkdns
"""

from __future__ import annotations

import secrets
import socket
import ssl
import threading
import time
from collections.abc import Iterable

import dnslib
import msgspec

from zkdns.address import HostPort
from zkdns.admin.api_types import TableChanges
from zkdns.admin.client import ApiClient, RefusedError, ServerAddress, UnreachableError
from zkdns.causes import cause_of
from zkdns.dns.client_messages import BadResponseError, build_query
from zkdns.dns.message import Type
from zkdns.errors import ZkdnsError
from zkdns.names import parse_name, to_text
from zkdns.serverset.changes import Change, SetPut
from zkdns.transport.dns_client import exchange_tcp, exchange_udp

_TIMEOUT = 2.0  # seconds for a query to one server
_MAX_SHOWN = 3  # addresses
_RETRY_SECONDS = 0.1


class LookupFailedError(ZkdnsError):
    """getaddrinfo(3) found no addresses; the text is its error."""


class DnsReply(msgspec.Struct, frozen=True):
    """A server's response to a query for an SOA."""

    rcode: str
    is_authoritative: bool
    soa: str | None
    """The SOA's owner, MNAME and RNAME, from the answer or authority section; None: there is no SOA."""


class EndToEndResult(msgspec.Struct, frozen=True):
    """The result of an end-to-end check."""

    is_ok: bool | None
    """None: there was no name to check, for the reason in `message`."""
    message: str


def query_soa(
    server: HostPort, name: str, *, tcp: bool = False, tls: ssl.SSLContext | None = None
) -> DnsReply:
    """Send a query for the SOA of a name.

    Args:
        server: an IP address and a port.
        name: absolute, with or without the trailing dot; "." is the root.
        tcp: use TCP instead of UDP.
        tls: use TLS.

    Raises:
        BadResponseError: there is no response, or it is malformed.
    """
    query = build_query(parse_name(name), Type.SOA, ident=secrets.randbits(16))
    if tcp or tls is not None:
        response = exchange_tcp(server, query, _TIMEOUT, tls)
    else:
        response = exchange_udp(server, query, _TIMEOUT)
    found = [
        f"{record.rname} {record.rdata.mname} {record.rdata.rname}"
        for record in (*response.rr, *response.auth)
        if isinstance(record.rdata, dnslib.SOA)  # false for an SOA without data
    ]
    rcode = str(dnslib.RCODE.get(response.header.rcode))
    return DnsReply(rcode, bool(response.header.aa), found[0].lower() if found else None)


def find_server(addresses: Iterable[HostPort], zone: str) -> tuple[HostPort | None, str]:
    """Return the first address that serves the zone; otherwise None, and the reason."""
    reason = "it listens nowhere"
    for server in addresses:
        try:
            reply = query_soa(server, zone)
        except BadResponseError as error:
            reason = f"{server} {error}"
            continue
        if reply.rcode == "NOERROR" and reply.is_authoritative:
            return server, ""
        authority = "" if reply.is_authoritative else ", not authoritatively"
        reason = f"{server} responds with {reply.rcode}{authority}"
    return None, reason


def check_end_to_end(
    listening: Iterable[HostPort], zone: str, socket_path: str | None, *, seconds: float = 0.0
) -> EndToEndResult:
    """Resolve a name of the zone as programs do, and compare the addresses with the server's table.

    Args:
        listening: the addresses of the server.
        zone: without the trailing dot.
        socket_path: the server's Unix socket, which supplies a service's name; None: there is none.
        seconds: how long to retry a failure, because programs need time to read their files again.
    """
    server, reason = find_server(listening, zone)
    if server is None:
        return EndToEndResult(None, f"no zkdns serves {zone} ({reason}), so no name can be checked; start it")
    served = _served_name(socket_path) if socket_path is not None else None
    if served is None:
        return EndToEndResult(
            None,
            f"zkdns responds at {server}, but reports no name that could be checked; check one yourself: "
            f"getent ahosts SERVICE.ENVIRONMENT.{zone}",
        )
    deadline = time.monotonic() + seconds
    while True:
        result = _check_name(*served)
        if result.is_ok or time.monotonic() >= deadline:
            return result
        time.sleep(_RETRY_SECONDS)


def _check_name(name: str, served: frozenset[str]) -> EndToEndResult:
    try:
        found = system_addresses(name)
    except LookupFailedError as error:
        return EndToEndResult(
            False, f"{name}: programs on this machine do not find it ({error}), although zkdns serves it"
        )
    shown = ", ".join(found[:_MAX_SHOWN]) + (", …" if len(found) > _MAX_SHOWN else "")
    if not served.intersection(found):
        return EndToEndResult(
            False, f"{name}: programs on this machine find {shown}, which zkdns does not serve"
        )
    return EndToEndResult(True, f"{name}: programs on this machine find {shown}")


def system_addresses(name: str, *, seconds: float = 10.0) -> tuple[str, ...]:
    """Resolve a name as programs on this machine do (getaddrinfo(3)), and return the distinct addresses.

    Args:
        name: absolute or relative.
        seconds: the time-out; glibc itself waits longer for name servers that do not respond.

    Raises:
        LookupFailedError: the name has no addresses.
    """
    results: list[tuple[str, ...] | LookupFailedError] = []

    def resolve() -> None:
        try:
            infos = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            results.append(LookupFailedError(cause_of(error)))
        else:
            results.append(tuple(dict.fromkeys(str(info[4][0]) for info in infos)))

    thread = threading.Thread(target=resolve, name="getaddrinfo", daemon=True)
    thread.start()
    thread.join(seconds)
    result = results[0] if results else LookupFailedError(f"no result within {seconds:g} s")
    if isinstance(result, LookupFailedError):
        raise result
    return result


def _served_name(socket_path: str) -> tuple[str, frozenset[str]] | None:
    """The name of a service and the addresses of its members; None: the server reports no such service."""
    try:
        for line in ApiClient(ServerAddress(path=socket_path)).table():
            for change in line.changes if isinstance(line, TableChanges) else ():
                addresses = _addresses(change)
                if isinstance(change, SetPut) and addresses:
                    return to_text(change.name.key), addresses
    except (UnreachableError, RefusedError):
        pass
    return None


def _addresses(change: Change) -> frozenset[str]:
    """The addresses of the live members, which are in the responses with any settings."""
    members = change.members if isinstance(change, SetPut) else ()
    return frozenset(
        address for member in members if member.status == "ALIVE" for address in member.addresses
    )
