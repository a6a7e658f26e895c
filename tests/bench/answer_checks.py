"""Checks that a server answers correctly before it is measured."""

from collections.abc import Sequence

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from tests.bench.zone import ENVIRONMENT, ZONE, Service

_SECONDS = 5.0
_SAMPLE = 20
_PAYLOAD = 1232
_MAX_UDP_SRV = 5  # at most: SRV records and their addresses fit in 512 bytes
_MIN_FULL_SRV = 500  # at least: SRV records fill a TCP message, and their addresses do not fit


def check_answers(name: str, port: int, services: Sequence[Service], *, over_udp: bool = True) -> None:
    """Query some of the services over TCP, and a nonexistent one over UDP.

    Args:
        name: of the server, for the error message.
        port: of the server.
        services: the services it should serve.
        over_udp: also query the services over UDP, with EDNS, and without it if the answer fits.

    Raises:
        RuntimeError: at the first wrong answer.
    """
    step = max(1, len(services) // _SAMPLE)
    for service in services[::step]:
        expected = {
            "A": {address for address, _ in service.members},
            "SRV": {
                f"0 100 {port} m{number}.{service.owner}." for number, (_, port) in enumerate(service.members)
            },
        }
        for qtype, records in expected.items():
            _check(name, send_query(port, service.owner, qtype, tcp=True), records, service)
            if over_udp:
                _check(name, send_query(port, service.owner, qtype), records, service)
            if over_udp and len(records) <= _MAX_UDP_SRV:
                _check(name, send_query(port, service.owner, qtype, edns=False), records, service)
    absent = send_query(port, f"nonexistent.{ENVIRONMENT}.{ZONE}", "A")
    if absent.rcode() != dns.rcode.NXDOMAIN:
        raise RuntimeError(
            f"{name} answers a nonexistent name with {dns.rcode.to_text(absent.rcode())}, not with NXDOMAIN"
        )


def send_query(
    port: int, owner: str, qtype: str, *, tcp: bool = False, edns: bool = True
) -> dns.message.Message:
    """Send a query and return the response.

    Raises:
        RuntimeError: no response arrived.
    """
    query = dns.message.make_query(owner, qtype, use_edns=0 if edns else False, payload=_PAYLOAD)
    send = dns.query.tcp if tcp else dns.query.udp
    try:
        return send(query, "127.0.0.1", port=port, timeout=_SECONDS)
    except (OSError, dns.exception.DNSException) as error:
        raise RuntimeError(
            f"{owner} {qtype} was not answered over {'TCP' if tcp else 'UDP'}: {error!r}"
        ) from error


def count_records(response: dns.message.Message) -> tuple[int, int]:
    """Number of records in the answer section, and in the additional section."""
    answer, additional = (
        sum(len(rrset) for rrset in section) for section in (response.answer, response.additional)
    )
    return answer, additional


def _check(name: str, response: dns.message.Message, expected: set[str], service: Service) -> None:
    question = response.question[0]
    asked = f"{question.name} {dns.rdatatype.to_text(question.rdtype)}"
    if response.rcode() != dns.rcode.NOERROR or response.flags & dns.flags.TC:
        flags = dns.flags.to_text(response.flags)
        raise RuntimeError(f"{name} answers {asked} with {dns.rcode.to_text(response.rcode())}, {flags}")
    found = {str(record) for rrset in response.answer for record in rrset}
    if found != expected:
        raise RuntimeError(f"{name} answers {asked} with {sorted(found)}, not with {sorted(expected)}")
    if question.rdtype != dns.rdatatype.SRV:
        return
    additional = {str(record) for rrset in response.additional for record in rrset}
    missing = {address for address, _ in service.members} - additional
    if missing and len(service.members) < _MIN_FULL_SRV:
        raise RuntimeError(f"{name} answers {asked} without the addresses {sorted(missing)} of its targets")
