"""`zkdns lookup`: query a running server, and print the response."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import sys
import time
from functools import cached_property
from pathlib import Path
from typing import cast

import click
import dnslib
import msgspec
from click.shell_completion import CompletionItem
from msgspec.structs import replace

from zkdns.address import DNS_PORT, HostPort, connectable, parse_host_port, parse_listen
from zkdns.admin.client import ApiClient, RefusedError, UnreachableError
from zkdns.admin.status import Status
from zkdns.cli.api_options import make_client, request_or_exit, server_option
from zkdns.cli.command import Command
from zkdns.cli.lookup_words import USUAL_TYPES, Question, names_to_try, needs_namespaces, parse_words
from zkdns.cli.name_completion import complete_names
from zkdns.cli.options import (
    complete_words,
    config_option,
    fail,
    fail_usage,
    flag_option,
    load,
    load_or_exit,
)
from zkdns.cli.output import StyledLines
from zkdns.cli.serverset_options import ENVIRONMENT
from zkdns.cli.service_argument import join_environment
from zkdns.cli.statuses import ExitStatus
from zkdns.cli.streams import write_json, write_lines
from zkdns.cli.values import ValueType, duration_option
from zkdns.config.parsers import text
from zkdns.dns.client_messages import BadResponseError, build_query
from zkdns.dns.edns import Ede, OptionCode
from zkdns.errors import BadValueError, ConfigError
from zkdns.names import Labels, parse_name, to_text
from zkdns.namespace import Namespace, parse_namespace
from zkdns.plurals import counted
from zkdns.resolv_conf import RESOLV_CONF, ResolvConf, parse_resolv_conf
from zkdns.spelling import ServiceText
from zkdns.transport.dns_client import NoResponseError, exchange

_MAX_TIMEOUT = 3600.0
_DNS_HINT = "; for a DNS server write @ADDRESS"
_ABSENT = ("NXDOMAIN", "REFUSED")  # then the next name is tried


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
    asked: str
    """The name as it was typed."""
    tried: tuple[str, ...] = ()
    """Other names that were queried for it before, and do not exist."""
    nearest: tuple[str, ...] = ()
    """Services with similar names, if none of these names exists."""
    is_empty: bool = False
    """Whether it is the name of a service that exists, but has no members."""


def _parse_address(written: str) -> HostPort:
    return parse_host_port(written, default_port=DNS_PORT)


def _complete_words(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the first word as a name, and the others as types too."""
    types = complete_words(*USUAL_TYPES)(context, parameter, incomplete)
    names = complete_names(context, parameter, incomplete)
    return [*types, *names] if context.params.get("words") else names


@click.command(
    cls=Command,
    examples=(
        ("zkdns lookup web.staging.discovery", "The addresses of a service's members"),
        ("zkdns lookup web.staging.discovery SRV", "Their ports too"),
        (
            "zkdns lookup example.com AAAA --dns 127.0.0.1:5300",
            "A forwarded name, from the server at this address",
        ),
    ),
)
@click.argument("words", nargs=-1, metavar="[@SERVER] NAME [TYPE]...", shell_complete=_complete_words)
@flag_option(ENVIRONMENT)
@click.option(
    "-x", "addresses", metavar="ADDRESS", multiple=True, help="Query the name of an address. Repeatable."
)
@server_option
@click.option(
    "--dns",
    metavar="ADDR[:PORT]",
    type=ValueType(text(_parse_address, "ADDR[:PORT]")),
    help="The DNS address to query, as @SERVER. Default: the first one of the server.",
)
@duration_option(
    "--timeout",
    0.01,
    _MAX_TIMEOUT,
    default="3s",
    help="Time-out, such as 500ms or 5s.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each response, one per line.")
@config_option
def lookup(
    words: tuple[str, ...],
    environment: str | None,
    addresses: tuple[str, ...],
    server: str | None,
    dns: HostPort | None,
    timeout: float,
    as_json: bool,
    config_file: str | None,
) -> None:
    """Query the running server for names, and print its responses.

    NAME is a domain name, the path of the znode of a service, or an address, which is looked up as with -x.
    TYPE is A, AAAA, SRV, TXT, … in any case (default: A; PTR for addresses). Several types and names may
    follow each other. The first word is always a name; a later word without a dot is a type.

    A name without a dot at its end and without a zone of the server is tried in its zones, then as it is and
    in the search list of /etc/resolv.conf. The output shows the name that was found.

    The exit status is 1 if there are no records, 2 for usage errors, 3 if the server does not respond.
    """
    try:
        parsed = parse_words(_with_environment(words, environment), addresses)
    except BadValueError as error:
        fail_usage([str(error)])
    if dns is not None and parsed.server is not None:
        fail_usage([f"--dns: cannot be combined with @{parsed.server}; remove one of them"])
    lookups = _Lookups(dns or parsed.server, server, config_file, timeout)
    has_records = True
    for number, question in enumerate(parsed.questions):
        result = lookups.look_up(question)
        has_records = has_records and bool(result.answers)
        if as_json:
            write_json(result)
        else:
            if number:
                write_lines("")
            _print(result)
    sys.exit(ExitStatus.SUCCESS if has_records else ExitStatus.NEGATIVE)


def _with_environment(words: tuple[str, ...], environment: str | None) -> list[str]:
    """Add the environment to the first name, which is that of a service."""
    if environment is None:
        return list(words)
    first = next((number for number, word in enumerate(words) if not word.startswith("@")), None)
    name = join_environment(None if first is None else words[first], environment)
    return [name if number == first else word for number, word in enumerate(words)]


class _Lookups:
    """Sends the questions to one DNS server.

    Args:
        dns: its address. None: the API reports it.
        server: the value of `--server`.
        config_file: the value of `--config`.
        timeout: seconds to wait for each response.
    """

    def __init__(
        self, dns: HostPort | None, server: str | None, config_file: str | None, timeout: float
    ) -> None:
        self._given = dns
        self._client = make_client(server, config_file, hint=_DNS_HINT) if dns is None else None
        self._config_file = config_file
        self._timeout = timeout

    def look_up(self, question: Question) -> LookupResult:
        """Query the possible names until one exists. If none does, return the response for the name as typed.

        If the server does not respond, print the error and exit.
        """
        try:
            names = names_to_try(
                question, self._namespaces if needs_namespaces(question) else (), _search_list()
            )
        except BadValueError as error:
            fail_usage([str(error)])
        results: dict[Labels, LookupResult] = {}
        for name in names:
            results[name] = result = self._exchange(name, question)
            if result.rcode not in _ABSENT:
                result = replace(result, is_empty=self._is_empty(question, result))
                break
        else:
            as_typed = min(names, key=len)
            result = results.pop(as_typed)
        tried = tuple(one.name for one in results.values() if one.rcode in _ABSENT)
        # SERVFAIL of an upstream hides that the name is no service's.
        is_unknown = result.rcode in _ABSENT or (tried and result.rcode != "NOERROR")
        if is_unknown and self._client is not None and isinstance(question.spelling, ServiceText):
            with contextlib.suppress(UnreachableError, RefusedError):
                result = replace(result, nearest=self._client.similar_names(question.text))
        return replace(result, tried=tried)

    def _is_empty(self, question: Question, result: LookupResult) -> bool:
        if result.answers or self._client is None or not isinstance(question.spelling, ServiceText):
            return False
        with contextlib.suppress(UnreachableError, RefusedError):
            counted = self._client.count(question.text)
            return counted.exists and not counted.answered
        return False

    def _exchange(self, name: Labels, question: Question) -> LookupResult:
        query = build_query(name, question.qtype, ident=secrets.randbits(16), edns=True)
        try:
            return _exchange(query, self._address, self._timeout, question.text)
        except BadResponseError as error:
            hint = "; does zkdns run there?" if isinstance(error, NoResponseError) else ""
            return fail(f"{self._address} {error}{hint}", ExitStatus.NO_RESPONSE)

    @cached_property
    def _status(self) -> Status | None:
        return None if self._client is None else request_or_exit(self._client.status)

    @cached_property
    def _address(self) -> HostPort:
        if self._client is None or self._status is None:
            return cast("HostPort", self._given)
        return _dns_address(self._client, self._status)

    @cached_property
    def _namespaces(self) -> tuple[Namespace, ...]:
        """The namespaces that the server reports, or without its API those of the configuration.

        With `--dns`, an invalid file in the usual place is no obstacle: the server may have read another one.
        """
        if self._status is not None:
            served = self._status.namespaces
            return tuple(parse_namespace(one.template, parse_name(one.zone)) for one in served)
        if self._config_file is not None:
            return load_or_exit({}, self._config_file, with_static=False, with_access=False).namespaces
        try:
            return load({}, None, with_static=False, with_access=False).namespaces
        except ConfigError:
            return ()


def _search_list() -> ResolvConf:
    """Return what resolv.conf(5) specifies for names. The variable LOCALDOMAIN replaces its search list."""
    try:
        conf = parse_resolv_conf(Path(RESOLV_CONF).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        conf = ResolvConf()
    domains = os.environ.get("LOCALDOMAIN")
    return conf if domains is None else replace(conf, search=tuple(domains.split()))


def _dns_address(client: ApiClient, status: Status) -> HostPort:
    """Return the first DNS address of the server that this machine can use. If there is none, exit."""
    reported, api = status.listening, client.server.at
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


def _exchange(query: bytes, server: HostPort, timeout: float, asked: str) -> LookupResult:
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
        asked=asked,
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
    records = counted(len(result.answers), "record") if result.answers else "no record"
    source = f"from {result.server} in {result.milliseconds:.1f} ms"
    lines.write(f"{result.name} {result.type}: {result.rcode}, {records}, {source}", style="bold")
    for error in result.errors:
        lines.write(f"extended DNS error {error}", style="yellow")
    if result.tried and result.rcode != "NOERROR" and "aa" not in result.flags:
        lines.write(f"also tried: {', '.join(result.tried)}", style="yellow")
    if result.is_empty:
        lines.write("the service exists, but has no members", style="yellow")
    if result.type == "PTR" and not result.answers:
        lines.write(
            f"zkdns explain {result.asked} names the members at an address, also without the setting reverse",
            style="yellow",
        )
    if result.nearest:
        lines.write(f"similar names: {', '.join(result.nearest)}", style="yellow")
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
