"""Whether a server answers what it should, before it is measured: a fast wrong answer is no figure."""

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
_FEW = 5  # SRV records and their addresses have room in 512 bytes
_MANY = 500  # SRV records of so many fill a message by themselves, and addresses have no room behind them


def check_answers(name: str, port: int, services: Sequence[Service], *, is_udp_too: bool = True) -> None:
    """Ask for some of the services, and for one that there is none of.

    Args:
        name: the server's, for what is said of it.
        port: where it listens.
        services: what it should know.
        is_udp_too: over TCP they are asked for in any case; otherwise with and without EDNS over UDP too.

    Raises:
        RuntimeError: with a sentence, at the first answer that is wrong.
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
            _check(name, ask(port, service.owner, qtype, tcp=True), records, service)
            if is_udp_too:
                _check(name, ask(port, service.owner, qtype), records, service)
            if is_udp_too and len(records) <= _FEW:
                _check(name, ask(port, service.owner, qtype, edns=False), records, service)
    absent = ask(port, f"nobody.{ENVIRONMENT}.{ZONE}", "A")
    if absent.rcode() != dns.rcode.NXDOMAIN:
        raise RuntimeError(f"{name} says {dns.rcode.to_text(absent.rcode())} of a name that does not exist")


def ask(port: int, owner: str, qtype: str, *, tcp: bool = False, edns: bool = True) -> dns.message.Message:
    """The whole response.

    Raises:
        RuntimeError: where there is none.
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
    """How many records an answer has, and how many ride along."""
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
    glue = {str(record) for rrset in response.additional for record in rrset}
    missing = {address for address, _ in service.members} - glue
    if missing and len(service.members) < _MANY:
        raise RuntimeError(f"{name} answers {asked} without the addresses {sorted(missing)} of its targets")
