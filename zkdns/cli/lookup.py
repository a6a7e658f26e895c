"""`zkdns lookup`: query a running server, and print the response."""

from __future__ import annotations

import ipaddress
import re
import secrets
import sys
import time

import click
import dnslib
import msgspec

from zkdns.address import DNS_PORT, HostPort, connectable, parse_host_port, parse_listen
from zkdns.admin.client import ApiClient
from zkdns.cli.api_options import make_client, request_or_exit, server_option
from zkdns.cli.name_completion import complete_names
from zkdns.cli.options import complete_words, config_option, fail
from zkdns.cli.output import StyledLines
from zkdns.cli.statuses import ExitStatus
from zkdns.cli.streams import write_json, write_lines
from zkdns.cli.values import ValueType, duration_option
from zkdns.config.parsers import text
from zkdns.dns.client_messages import BadResponseError, build_query
from zkdns.dns.edns import Ede, OptionCode
from zkdns.errors import BadValueError
from zkdns.names import Labels, parse_name, to_text
from zkdns.transport.dns_client import NoResponseError, exchange

_MAX_TIMEOUT = 3600.0
_USUAL_TYPES = ("A", "AAAA", "SRV", "TXT", "PTR", "CNAME", "MX", "NS", "SOA", "HTTPS", "ANY")


class Record(msgspec.Struct, frozen=True):
    """A record of the response."""

    name: str
    ttl: int
    type: str
    data: str


class LookupResult(msgspec.Struct, frozen=True):
    """The response, as `--json` prints it."""

    name: str
    type: str
    server: str
    rcode: str
    flags: tuple[str, ...]
    milliseconds: float
    answers: tuple[Record, ...]
    authority: tuple[Record, ...]
    additional: tuple[Record, ...]
    errors: tuple[str, ...]
    """Extended DNS errors (RFC 8914), such as `14: the table has not been read yet`."""


def _parse_type(written: str) -> int:
    """Parse a record type: its name, or its number as in RFC 3597 §5."""
    qtype = written.upper()
    number = dnslib.QTYPE.reverse.get(qtype)
    if number is None and re.fullmatch(r"TYPE[0-9]{1,5}", qtype):
        number = int(qtype.removeprefix("TYPE"))
    if number is None or number > 0xFFFF:  # noqa: PLR2004 - 16 bits
        raise BadValueError(f"{written!r} is not a record type; write A, AAAA, SRV, TXT, …, or TYPE257")
    return int(number)


def _parse_address(written: str) -> HostPort:
    return parse_host_port(written, default_port=DNS_PORT)


@click.command()
@click.argument("name", type=ValueType(text(parse_name, "a domain name")), shell_complete=complete_names)
@click.argument(
    "qtype",
    metavar="[TYPE]",
    type=ValueType(text(_parse_type, "a record type")),
    default="A",
    shell_complete=complete_words(*_USUAL_TYPES),
)
@server_option
@click.option(
    "--dns",
    metavar="ADDR[:PORT]",
    type=ValueType(text(_parse_address, "ADDR[:PORT]")),
    help="The DNS address to query. Default: the first one of the server.",
)
@duration_option(
    "--timeout",
    0.01,
    _MAX_TIMEOUT,
    default="3s",
    help="Time-out, such as 500ms or 5s.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@config_option
def lookup(
    name: Labels,
    qtype: int,
    server: str | None,
    dns: HostPort | None,
    timeout: float,
    as_json: bool,
    config_file: str | None,
) -> None:
    """Query the running server for NAME, and print its response.

    TYPE is A, AAAA, SRV, TXT, … (default: A). The exit status is 1 if there are no records, 2 for usage
    errors, 3 if the server does not respond.
    """
    query = build_query(name, qtype, ident=secrets.randbits(16), edns=True)
    address = dns or _dns_address(make_client(server, config_file))
    try:
        result = _exchange(query, address, timeout)
    except BadResponseError as error:
        hint = "; does zkdns run there?" if isinstance(error, NoResponseError) else ""
        fail(f"{address} {error}{hint}", ExitStatus.NO_RESPONSE)
    if as_json:
        write_json(result)
    else:
        _print(result)
    sys.exit(ExitStatus.SUCCESS if result.answers else ExitStatus.NEGATIVE)


def _dns_address(client: ApiClient) -> HostPort:
    """Return the first DNS address of the server that this machine can use. If there is none, exit."""
    reported, api = request_or_exit(client.status).listening, client.server.at
    try:
        listening = [parse_listen(one, default_port=DNS_PORT) for one in reported]
    except BadValueError as error:
        fail(f"the server at {client.server} reports an invalid address: {error}", ExitStatus.NO_RESPONSE)
    if listening and (api is None or _is_loopback(api.host)):
        return connectable(listening[0])
    for address in listening:
        if api is not None and connectable(address) != address:  # a wildcard: also the API's address
            return HostPort(api.host, address.port)
        if not _is_loopback(address.host):
            return address
    own = ", ".join(map(str, listening)) or "none"
    sentence = f"the server at {client.server} listens only at addresses of its own machine: {own}"
    return fail(f"{sentence}; name another one with --dns ADDR:PORT", ExitStatus.NO_RESPONSE)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _exchange(query: bytes, server: HostPort, timeout: float) -> LookupResult:
    started_at = time.perf_counter()
    response = exchange(server, query, timeout)
    milliseconds = (time.perf_counter() - started_at) * 1000
    question = dnslib.DNSRecord.parse(query).q
    header = response.header
    options = [
        option for record in response.ar if record.rtype == dnslib.QTYPE.OPT for option in record.rdata
    ]
    return LookupResult(
        name=to_text(question.qname.label) + ".",
        type=_type_name(question.qtype),
        server=str(server),
        rcode=str(dnslib.RCODE.get(header.rcode)),
        flags=tuple(flag for flag in ("aa", "tc", "rd", "ra", "ad", "cd") if getattr(header, flag)),
        milliseconds=round(milliseconds, 3),
        answers=_records(response.rr),
        authority=_records(response.auth),
        additional=_records([record for record in response.ar if record.rtype != dnslib.QTYPE.OPT]),
        errors=tuple(
            _error_text(int.from_bytes(option.data[:2]), option.data[2:].decode(errors="replace"))
            for option in options
            if option.code == OptionCode.EDE
        ),
    )


def _error_text(code: int, text: str) -> str:
    """Format an extended DNS error; without a text from the server, use its name in RFC 8914."""
    known = Ede(code).name.replace("_", " ").lower() if code in Ede.__members__.values() else ""
    return f"{code}: {text or known}".removesuffix(": ")


def _records(records: list[dnslib.RR]) -> tuple[Record, ...]:
    return tuple(
        Record(to_text(record.rname.label) + ".", record.ttl, _type_name(record.rtype), str(record.rdata))
        for record in records
    )


def _type_name(number: int) -> str:
    return str(dnslib.QTYPE.get(number))


def _print(result: LookupResult) -> None:
    lines = StyledLines()
    count = len(result.answers)
    records = "no record" if not count else "1 record" if count == 1 else f"{count} records"
    source = f"from {result.server} in {result.milliseconds:.1f} ms"
    lines.write(f"{result.name} {result.type}: {result.rcode}, {records}, {source}", style="bold")
    for error in result.errors:
        lines.write(f"server error {error}", style="yellow")
    for title, section in (
        ("", result.answers),
        ("additional", result.additional),
        ("authority", result.authority),
    ):
        if not section:
            continue
        if title:
            write_lines("")
            lines.write(f"{title}:", style="dim")
        widest = [max(map(len, column)) for column in zip(*map(_cells, section), strict=True)]
        for record in section:
            cells = map(str.ljust, _cells(record), widest)
            lines.write("  ".join(cells).rstrip())


def _cells(record: Record) -> tuple[str, str, str, str]:
    return record.name, str(record.ttl), record.type, record.data
