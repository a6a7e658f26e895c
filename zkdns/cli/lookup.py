"""`zkdns lookup`: ask a running server, and show its answer as people read it."""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import Any

import click
import dnslib
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from zkdns.address import HostPort, parse_host_port
from zkdns.cli.options import MISTAKEN, config_option, load_or_exit
from zkdns.errors import BadValueError, ZkdnsError
from zkdns.names import parse_name, to_text

_UDP_SIZE = 1232
_EDE_OPTION = 15
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}

NOT_FOUND = 1
"""The exit status where the server answered, and there are no such records."""
NO_ANSWER = 3
"""The exit status where the server did not answer."""


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


class _NoAnswerError(ZkdnsError):
    """The server did not answer."""


@click.command()
@click.argument("name")
@click.argument("qtype", metavar="[TYPE]", default="A")
@click.option("--server", metavar="ADDR[:PORT]", help="Which server to ask (default: the configured one).")
@click.option("--timeout", type=click.FloatRange(min=0.01), default=3.0, show_default=True, help="Seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@config_option
def lookup(
    name: str, qtype: str, server: str | None, timeout: float, as_json: bool, config_file: str | None
) -> None:
    """Ask the running server for NAME, and print its answer.

    TYPE is A, AAAA, SRV, TXT, … (default: A). The exit status is 0 where there are records, 1 where there are
    none, 3 where the server does not answer.
    """
    try:
        address = _server(server or os.environ.get("ZKDNS_SERVER"), config_file)
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
    sys.exit(0 if answer.answers else NOT_FOUND)


def _server(text: str | None, config_file: str | None) -> HostPort:
    if text:
        return parse_host_port(text, default_port=53)
    address = load_or_exit({}, config_file).listen[0]
    if not address.port:
        raise BadValueError(f"{address} does not tell the server's port; name it with --server ADDR:PORT")
    return HostPort(_WILDCARDS.get(address.host, address.host), address.port)


def _query(name: str, qtype: str) -> dnslib.DNSRecord:
    labels = parse_name(name)
    try:
        number = int(getattr(dnslib.QTYPE, qtype.upper()))
    except dnslib.DNSError:
        digits = qtype.upper().removeprefix("TYPE")
        if not (digits.isdigit() and digits != qtype.upper() and int(digits) <= 0xFFFF):  # noqa: PLR2004 - 16 bits
            raise BadValueError(
                f"{qtype!r} is not a record type; write A, AAAA, SRV, TXT, …, or TYPE257"
            ) from None
        number = int(digits)
    query = dnslib.DNSRecord(dnslib.DNSHeader(rd=1), q=dnslib.DNSQuestion(dnslib.DNSLabel(labels), number))
    query.add_ar(dnslib.EDNS0(udp_len=_UDP_SIZE))
    return query


def _ask(query: dnslib.DNSRecord, server: HostPort, timeout: float) -> Answer:
    begun = time.perf_counter()
    try:
        family = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_DGRAM)[0]
        to: dict[str, Any] = {
            "dest": family[4][0],
            "port": server.port,
            "timeout": timeout,
            "ipv6": family[0] == socket.AF_INET6,
        }
        response = dnslib.DNSRecord.parse(query.send(**to))
        if response.header.tc:
            response = dnslib.DNSRecord.parse(query.send(**to, tcp=True))
    except TimeoutError:
        raise _NoAnswerError(f"{server} did not answer within {timeout:g} s") from None
    except OSError as error:
        raise _NoAnswerError(
            f"{server} cannot be asked: {error.strerror or error}; does zkdns run there?"
        ) from None
    except (dnslib.DNSError, ValueError) as error:
        raise _NoAnswerError(f"{server} answered what cannot be read: {error}") from None
    if response.header.id != query.header.id:
        raise _NoAnswerError(f"{server} answered another question")
    return _read(query, response, server, (time.perf_counter() - begun) * 1000)


def _read(query: dnslib.DNSRecord, response: dnslib.DNSRecord, server: HostPort, took: float) -> Answer:
    header = response.header
    flags = tuple(flag for flag in ("aa", "tc", "rd", "ra", "ad", "cd") if getattr(header, flag))
    options = [
        option for record in response.ar if record.rtype == dnslib.QTYPE.OPT for option in record.rdata
    ]
    errors = [
        f"{int.from_bytes(option.data[:2])}: {option.data[2:].decode(errors='replace')}".rstrip(": ")
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
        table = Table.grid(padding=(0, 2, 0, 0))
        for row in rows:
            table.add_row(Text(row.name), str(row.ttl), row.type, Text(row.data))
        if title:
            console.print(Text(f"\n{title}:", style="dim"))
        console.print(table)
