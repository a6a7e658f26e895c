"""`zkdns lookup`: ask a running server, and show its answer as people read it."""

from __future__ import annotations

import math
import re
import socket
import sys
import time
from typing import Any

import click
import dnslib
import msgspec
from rich.console import Console
from rich.text import Text

from zkdns.address import HostPort, connectable, parse_host_port
from zkdns.cli.names import complete_names
from zkdns.cli.options import (
    DONE,
    MISTAKEN,
    NO_ANSWER,
    NOT_FOUND,
    complete_words,
    config_option,
    load_or_exit,
)
from zkdns.dns.edns import Ede
from zkdns.errors import BadValueError, ZkdnsError
from zkdns.names import parse_name, to_text

_UDP_SIZE = 1232
_EDE_OPTION = 15
_LARGEST = 65535
_LONGEST_WAIT = 3600.0
_USUAL_TYPES = ("A", "AAAA", "SRV", "TXT", "PTR", "CNAME", "MX", "NS", "SOA", "HTTPS", "ANY")


class Row(msgspec.Struct, frozen=True):
    """One record."""

    name: str
    ttl: int
    type: str
    data: str


class Answer(msgspec.Struct, frozen=True):
    """What `--json` prints."""

    name: str
    type: str
    server: str
    rcode: str
    flags: tuple[str, ...]
    milliseconds: float
    answers: tuple[Row, ...]
    authority: tuple[Row, ...]
    additional: tuple[Row, ...]
    errors: tuple[str, ...]
    """Extended DNS errors (RFC 8914), as `14: the table has not been read yet`."""


def _seconds(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    if math.isnan(value):  # which no range excludes
        raise click.BadParameter("nan is not a number of seconds.")
    return value


class _NoAnswerError(ZkdnsError):
    """The server did not answer."""


@click.command()
@click.argument("name", shell_complete=complete_names)
@click.argument("qtype", metavar="[TYPE]", default="A", shell_complete=complete_words(*_USUAL_TYPES))
@click.option(
    "--server",
    metavar="ADDR[:PORT]",
    envvar="ZKDNS_SERVER",
    help="Which server to ask (default: the configured one).",
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(0.01, _LONGEST_WAIT),
    callback=_seconds,
    default=3.0,
    show_default=True,
    help="How long to wait for an answer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@config_option
def lookup(
    name: str, qtype: str, server: str | None, timeout: float, as_json: bool, config_file: str | None
) -> None:
    """Ask the running server for NAME, and print its answer.

    TYPE is A, AAAA, SRV, TXT, … (default: A). The exit status is 1 where there are no records, 2 for
    mistakes, 3 where the server does not answer.
    """
    try:
        address = _server(server, config_file)
        query = _query(name, qtype)
    except BadValueError as error:
        click.echo(f"zkdns: {error}", err=True)
        sys.exit(MISTAKEN)
    try:
        answer = _ask(query, address, timeout)
    except _NoAnswerError as error:
        click.echo(f"zkdns: {error}", err=True)
        sys.exit(NO_ANSWER)
    if as_json:
        click.echo(msgspec.json.encode(answer))
    else:
        _show(answer)
    sys.exit(DONE if answer.answers else NOT_FOUND)


def _server(text: str | None, config_file: str | None) -> HostPort:
    if text:
        return parse_host_port(text, default_port=53)
    address = load_or_exit({}, config_file, with_fixed=False).listen[0]
    if not address.port:
        raise BadValueError(f"{address} does not tell the server's port; name it with --server ADDR:PORT")
    return connectable(address)


def _query(name: str, qtype: str) -> dnslib.DNSRecord:
    labels = parse_name(name)
    number = _type_number(qtype.upper())
    query = dnslib.DNSRecord(dnslib.DNSHeader(rd=1), q=dnslib.DNSQuestion(dnslib.DNSLabel(labels), number))
    query.add_ar(dnslib.EDNS0(udp_len=_UDP_SIZE))
    return query


def _type_number(qtype: str) -> int:
    """A record type by its name, or by its number as in RFC 3597 §5."""
    number = dnslib.QTYPE.reverse.get(qtype)
    if number is None and re.fullmatch(r"TYPE[0-9]{1,5}", qtype):
        number = int(qtype.removeprefix("TYPE"))
    if number is None or number > 0xFFFF:  # noqa: PLR2004 - 16 bits
        raise BadValueError(f"{qtype!r} is not a record type; write A, AAAA, SRV, TXT, …, or TYPE257")
    return int(number)


def _ask(query: dnslib.DNSRecord, server: HostPort, timeout: float) -> Answer:
    begun = time.perf_counter()
    message = query.pack()
    try:
        family, _, _, _, to = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_DGRAM)[0]
        response = _parse(_exchange_udp(message, family, to, timeout), query, server)
        if response.header.tc:
            response = _parse(_exchange_tcp(message, family, to, timeout), query, server)
    except TimeoutError:
        raise _NoAnswerError(f"{server} did not answer within {timeout:g} s") from None
    except OSError as error:
        raise _NoAnswerError(
            f"{server} cannot be asked: {error.strerror or error}; does zkdns run there?"
        ) from None
    return _read(query, response, server, (time.perf_counter() - begun) * 1000)


def _exchange_udp(message: bytes, family: int, to: tuple[Any, ...], timeout: float) -> bytes:
    """One datagram there, and the answer; connected, so that a port where nobody listens says so at once."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        sock.connect(to)
        sock.send(message)
        return sock.recv(_LARGEST)


def _exchange_tcp(message: bytes, family: int, to: tuple[Any, ...], timeout: float) -> bytes:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect(to)
        sock.sendall(len(message).to_bytes(2) + message)
        with sock.makefile("rb") as stream:
            length = stream.read(2)
            response = stream.read(int.from_bytes(length))
    if len(length) + len(response) < 2 + int.from_bytes(length):
        raise ConnectionAbortedError("it closed the connection amid its answer")
    return response


def _parse(response: bytes, query: dnslib.DNSRecord, server: HostPort) -> dnslib.DNSRecord:
    try:
        parsed = dnslib.DNSRecord.parse(response)
    except (dnslib.DNSError, ValueError) as error:
        raise _NoAnswerError(f"{server} answered what cannot be read: {error}") from None
    if parsed.header.id != query.header.id or not parsed.header.qr:
        raise _NoAnswerError(f"{server} answered another question")
    return parsed


def _read(query: dnslib.DNSRecord, response: dnslib.DNSRecord, server: HostPort, took: float) -> Answer:
    header = response.header
    flags = tuple(flag for flag in ("aa", "tc", "rd", "ra", "ad", "cd") if getattr(header, flag))
    options = [
        option for record in response.ar if record.rtype == dnslib.QTYPE.OPT for option in record.rdata
    ]
    errors = [
        _error_text(int.from_bytes(option.data[:2]), option.data[2:].decode(errors="replace"))
        for option in options
        if option.code == _EDE_OPTION
    ]
    return Answer(
        name=to_text(query.q.qname.label) + ".",
        type=_type_name(query.q.qtype),
        server=str(server),
        rcode=str(dnslib.RCODE.get(header.rcode)),
        flags=flags,
        milliseconds=round(took, 3),
        answers=_rows(response.rr),
        authority=_rows(response.auth),
        additional=_rows([record for record in response.ar if record.rtype != dnslib.QTYPE.OPT]),
        errors=tuple(errors),
    )


def _error_text(code: int, text: str) -> str:
    """An extended DNS error; where the server adds no text, by the name that RFC 8914 gives it."""
    known = Ede(code).name.replace("_", " ").lower() if code in Ede.__members__.values() else ""
    return f"{code}: {text or known}".removesuffix(": ")


def _rows(records: list[dnslib.RR]) -> tuple[Row, ...]:
    return tuple(
        Row(to_text(record.rname.label) + ".", record.ttl, _type_name(record.rtype), str(record.rdata))
        for record in records
    )


def _type_name(number: int) -> str:
    return str(dnslib.QTYPE.get(number))


def _show(answer: Answer) -> None:
    console = Console(highlight=False, soft_wrap=True)
    count = len(answer.answers)
    records = "no record" if not count else "1 record" if count == 1 else f"{count} records"
    source = f"from {answer.server} in {answer.milliseconds:.1f} ms"
    console.print(Text(f"{answer.name} {answer.type}: {answer.rcode}, {records}, {source}", style="bold"))
    for error in answer.errors:
        console.print(Text(f"the server says: {error}", style="yellow"))
    for title, rows in (
        ("", answer.answers),
        ("additional", answer.additional),
        ("authority", answer.authority),
    ):
        if not rows:
            continue
        if title:
            console.print(Text(f"\n{title}:", style="dim"))
        widest = [max(map(len, column)) for column in zip(*map(_cells, rows), strict=True)]
        for row in rows:
            cells = map(str.ljust, _cells(row), widest)
            console.print(Text("  ".join(cells).rstrip()))


def _cells(row: Row) -> tuple[str, str, str, str]:
    return row.name, str(row.ttl), row.type, row.data
