"""Upstreams that violate the rules, each with the responses of zkdns, unbound and dnsmasq.

The columns of the other servers are their responses as forwarders of the same upstream:

    python -m tests.forward.misbehaviours

starts them and prints their columns. `documented()` is the table of zkdns/docs/forwarding.md.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from tests.support.loopback import free_port
from tests.support.upstream import TCP, UDP, Behaviour, ReceivedQuery, Send, UpstreamServer, answers
from tests.support.waiting import PATIENCE
from zkdns.dns.message import end_of_question

NAME = "www.example"
SECONDS = PATIENCE
"""Time-out of a stub resolver (resolv.conf(5))."""
GOOD = "192.0.2.1"
NO_RESPONSE = "no response"
SHORTENED, LISTED = 2, 5
"""More aliases than this are only counted, as are more other records than this."""

OWN = b"\xc0\x0c"
OPT = b"\0\0\x29\x04\xd0" + bytes(6)
EXAMPLE = b"\xc0\x10"  # a pointer to `example`, the parent of the name
_A, _NS, _CNAME, _SOA, _SRV, _DNAME = 1, 2, 5, 6, 33, 39
_SOA_DATA = b"\0\0" + (1).to_bytes(4) + bytes(12) + (60).to_bytes(4)


@dataclass(frozen=True)
class Case:
    """An upstream.

    Attributes:
        title: the violation.
        act: its behaviour.
        ours: the response of zkdns, as `describe` returns it. Those of other servers are in `OTHERS`.
        qtype: type of the question.
    """

    title: str
    act: Behaviour
    ours: str
    qtype: str = "A"


# -- messages ---------------------------------------------------------------------------------------------


def record(owner: bytes, rtype: int, data: bytes, ttl: int = 60, rclass: int = 1) -> bytes:
    return (
        owner
        + b"".join(
            number.to_bytes(size) for number, size in ((rtype, 2), (rclass, 2), (ttl, 4), (len(data), 2))
        )
        + data
    )


def name(text: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".")) + b"\0"


def address(last: int = 1, owner: bytes = OWN, ttl: int = 60, rclass: int = 1) -> bytes:
    return record(owner, _A, bytes((192, 0, 2, last)), ttl, rclass)


def question_of(received: ReceivedQuery) -> bytes:
    return received.message[12 : 2 + end_of_question(received.message[2:])]


def reply(
    received: ReceivedQuery,
    *sections: Sequence[bytes],
    flags: int = 0x8180,
    rcode: int = 0,
    questions: int = 1,
    question: bytes | None = None,
    counts: Sequence[int] = (),
    tail: bytes = b"",
) -> bytes:
    """A reply with these sections of records; the counts are correct unless given."""
    numbers = [questions, *(counts or map(len, sections))]
    header = b"".join(number.to_bytes(2) for number in (flags | rcode, *numbers, *(4 - len(numbers)) * [0]))
    records = b"".join(b"".join(section) for section in sections)
    repeated = question_of(received) if question is None else question
    return received.message[:2] + header + repeated + records + tail


# -- behaviours -------------------------------------------------------------------------------------------


def always(*sections: Sequence[bytes], **options: object) -> Behaviour:
    """The same reply over UDP and TCP."""
    return lambda received: [Send(reply(received, *sections, **options))]  # type: ignore[arg-type]


def to_edns(act: Behaviour) -> Behaviour:
    """A behaviour for queries with EDNS; others get the correct answer."""
    return lambda received: act(received) if received.has_edns else answers(received)


def first(*wrong: Callable[[ReceivedQuery], bytes]) -> Behaviour:
    """Wrong messages over UDP, and a moment later the correct answer."""

    def act(received: ReceivedQuery) -> Iterator[Send]:
        if received.transport == UDP:
            yield from (Send(make(received)) for make in wrong)
        (good,) = answers(received)
        yield good._replace(after=0.05)

    return act


def for_the_name(act: Behaviour) -> Behaviour:
    """A behaviour for `NAME`; other names get the correct answer."""
    return lambda received: act(received) if received.name == f"{NAME}." else answers(received)


def truncated(over_tcp: Behaviour, count: int = 1) -> Behaviour:
    """Over UDP only some of the records, with TC."""

    def act(received: ReceivedQuery) -> Iterable[Send]:
        return over_tcp(received) if received.transport == TCP else partial(received)

    partial = always(count * [address()], flags=0x8380)
    return act


def silent(_received: ReceivedQuery) -> list[Send]:
    return []


def closes(_received: ReceivedQuery) -> list[Send]:
    return [Send(None)]


def sends_half(received: ReceivedQuery) -> list[Send]:
    whole = reply(received, [address(), address(2)])
    return [Send(len(whole).to_bytes(2) + whole[:30], framed=False), Send(None, after=0.1)]


def with_length(change: int) -> Behaviour:
    """Over TCP a wrong length before the message."""

    def act(received: ReceivedQuery) -> list[Send]:
        whole = reply(received, [address(), address(2)])
        return [Send((len(whole) + change).to_bytes(2) + whole, framed=False), Send(None, after=0.1)]

    return act


def from_another_port(received: ReceivedQuery) -> Iterable[Send]:
    if received.transport == TCP:
        return answers(received)
    return [Send(reply(received, [address(9)]), from_another_port=True)]


def twice(received: ReceivedQuery) -> Iterable[Send]:
    return [*answers(received), *answers(received)]


def late(received: ReceivedQuery) -> Iterable[Send]:
    return [Send(reply(received, [address()]), after=0.6)]


def chain(count: int) -> list[bytes]:
    owners = [OWN, *(name(f"n{number}.example") for number in range(count))]
    aliases = [record(owner, _CNAME, target) for owner, target in itertools.pairwise(owners)]
    return [*aliases, address(owner=owners[-1])]


def upper_case(received: ReceivedQuery) -> list[Send]:
    whole = question_of(received)
    return [Send(reply(received, [address()], question=whole[:-4].upper() + whole[-4:]))]


def other_question(received: ReceivedQuery) -> bytes:
    return reply(received, [address(9)], question=name("ftp.example") + b"\0\1\0\1")


def other_id(received: ReceivedQuery) -> bytes:
    return (received.ident ^ 1).to_bytes(2) + reply(received, [address(9)])[2:]


def two_questions(received: ReceivedQuery) -> list[Send]:
    return [Send(reply(received, [address()], questions=2, question=2 * question_of(received)))]


WEB = name("web.example")
SERVER_CASES = (
    # EDNS
    Case("FORMERR to EDNS, without OPT", to_edns(always(rcode=1)), GOOD),
    Case("FORMERR to EDNS, with OPT", to_edns(always([], [], [OPT], rcode=1)), GOOD),
    Case("FORMERR to EDNS, only a header", to_edns(always(rcode=1, questions=0, question=b"")), GOOD),
    Case("NOTIMP to EDNS, with OPT", to_edns(always([], [], [OPT], rcode=4)), GOOD),
    Case("BADVERS to EDNS", to_edns(always([], [], [OPT[:5] + b"\1" + OPT[6:]])), GOOD),
    Case("REFUSED to EDNS", to_edns(always([], [], [OPT], rcode=5)), GOOD),
    Case("SERVFAIL to EDNS", to_edns(always([], [], [OPT], rcode=2)), GOOD),
    Case("silent to EDNS", to_edns(silent), GOOD),
    Case("two OPT records", always([address()], [], [OPT, OPT]), GOOD),
    Case("OPT with a broken option", always([address()], [], [record(b"\0", 41, b"\0\x0a\0\xff")]), GOOD),
    Case("OPT in the answer section", always([address(), OPT]), GOOD),
    Case("OPT of version 1", always([address()], [], [OPT[:6] + b"\1" + OPT[7:]]), GOOD),
    Case("answer of 700 bytes without OPT", always([address(n) for n in range(1, 41)]), "40 addresses"),
    # response codes
    Case("FORMERR to every query", always(rcode=1), "SERVFAIL"),
    Case("NOTIMP to every query", always(rcode=4), "SERVFAIL"),
    Case("REFUSED to every query", always(rcode=5), "SERVFAIL"),
    Case("response code 11", always(rcode=11), "SERVFAIL"),
    Case("response code 15", always(rcode=15), "SERVFAIL"),
    Case("response code 23", always([], [], [record(b"\0", 41, b"", 1 << 24, 1232)], rcode=7), "SERVFAIL"),
    Case("SERVFAIL, only a header", always(rcode=2, questions=0, question=b""), "SERVFAIL"),
    # header and question
    Case("another id, then the answer", first(other_id), GOOD),
    Case("another question, then the answer", first(other_question), GOOD),
    Case("question in upper case", upper_case, GOOD),
    Case("answer without a question", always([address()], questions=0, question=b""), "SERVFAIL"),
    Case("two questions", two_questions, "SERVFAIL"),
    Case("from another port; TCP works", from_another_port, GOOD),
    Case("QR clear", always([address()], flags=0x0180), "SERVFAIL"),
    Case("opcode 4", always([address()], flags=0xA180), "SERVFAIL"),
    Case("RA clear", always([address()], flags=0x8100), GOOD),
    Case("AA, AD and Z set", always([address()], flags=0x85E0), GOOD),
    # transport
    Case("empty datagram, then the answer", first(lambda _: b""), GOOD),
    Case("11 bytes, then the answer", first(lambda received: received.message[:11]), GOOD),
    Case("the answer twice", twice, GOOD),
    Case("the answer after 0.6 s", late, GOOD),
    Case("UDP is silent, TCP works", lambda q: [] if q.transport == UDP else answers(q), GOOD),
    Case("bytes after the message", always([address()], tail=b"\0\1\2"), GOOD),
    Case("TC; TCP works", truncated(always([address(), address(2)])), "192.0.2.1 192.0.2.2"),
    Case("TC; TCP is closed", truncated(closes), f"TC {GOOD}"),
    Case("TC; TCP is silent", truncated(silent), f"TC {GOOD}"),
    Case("TC; half a message over TCP", truncated(sends_half), f"TC {GOOD}"),
    Case("TC; length over TCP too large", truncated(with_length(5)), f"TC {GOOD}"),
    Case("TC; length over TCP too small", truncated(with_length(-5)), f"TC {GOOD}"),
    Case("TC over TCP too", always([address()], flags=0x8380), f"TC {GOOD}"),
    Case("TC without records; TCP is closed", truncated(closes, count=0), "SERVFAIL"),
)
"""Upstreams that behave so for every name."""

NAME_CASES = (
    # names and records
    Case("name that points to itself", always([address(owner=b"\xc0\x1d")]), "SERVFAIL"),
    Case("name that points forward", always([address(owner=b"\xc0\x2d"), address()]), "SERVFAIL"),
    Case(
        "name of 257 bytes",
        always([address()], [], [address(owner=4 * (b"\x3f" + 63 * b"x") + b"\0")]),
        "SERVFAIL",
    ),
    Case(
        "label type 0x40", always([address()], [], [address(owner=b"\x40" + 64 * b"x" + b"\0")]), "SERVFAIL"
    ),
    Case("more records in the counts than in the message", always([address()], counts=(2, 0, 0)), "SERVFAIL"),
    Case("address of 3 bytes", always([record(OWN, _A, b"\xc0\0\2")]), "SERVFAIL"),
    Case(
        "SRV with a compressed target",
        always([record(OWN, _SRV, bytes(6) + b"\3web" + EXAMPLE)]),
        "0 0 0 web.example.",
        qtype="SRV",
    ),
    Case("record of another name in addition", always([address(), address(9, WEB)]), GOOD),
    Case("records of another name only", always([address(9, WEB)]), "SERVFAIL"),
    Case("record of class CH in addition", always([address(), address(9, rclass=3)]), GOOD),
    Case("records of class CH only", always([address(rclass=3)]), "SERVFAIL"),
    # aliases
    Case("CNAME without the target's records", always([record(OWN, _CNAME, WEB)]), "web.example."),
    Case("CNAME to itself", always([record(OWN, _CNAME, OWN)]), "SERVFAIL"),
    Case("CNAME loop", always([record(OWN, _CNAME, WEB), record(WEB, _CNAME, OWN)]), "SERVFAIL"),
    Case("20 CNAMEs", always(chain(20)), "20 aliases, 192.0.2.1"),
    Case(
        "address before its CNAME",
        always([address(owner=WEB), record(OWN, _CNAME, WEB)]),
        "192.0.2.1 web.example.",
    ),
    Case(
        "DNAME with its CNAME",
        always(
            [
                record(EXAMPLE, _DNAME, name("test.net")),
                record(OWN, _CNAME, name("www.test.net")),
                address(owner=name("www.test.net")),
            ]
        ),
        "test.net. www.test.net. 192.0.2.1",
    ),
    # TTLs
    Case("TTL with the top bit set", always([address(ttl=0x80000001)]), f"{GOOD} (TTL 0)"),
    Case("TTL 0", always([address(ttl=0)]), f"{GOOD} (TTL 0)"),
    Case(
        "TTLs 60, 10 and 30 in one set",
        always([address(1, ttl=60), address(2, ttl=10), address(3, ttl=30)]),
        "192.0.2.1 192.0.2.2 192.0.2.3 (TTL 10)",
    ),
    # negative answers
    Case("NXDOMAIN with an address", always([address()], rcode=3), "NXDOMAIN 192.0.2.1"),
    Case("NODATA without SOA", always(), "NODATA"),
    Case("NXDOMAIN without SOA", always(rcode=3), "NXDOMAIN"),
    Case(
        "NXDOMAIN with the SOA of another zone",
        always([], [record(name("test.net"), _SOA, _SOA_DATA)], rcode=3),
        "NXDOMAIN",
    ),
    Case(
        "referral",
        always(
            [], [record(EXAMPLE, _NS, name("ns.example"))], [address(9, name("ns.example"))], flags=0x8100
        ),
        "SERVFAIL",
    ),
)


"""Upstreams that behave so for `NAME` only."""

CASES = (*SERVER_CASES, *(replace(case, act=for_the_name(case.act)) for case in NAME_CASES))

OTHERS: dict[str, tuple[str, str]] = {
    "FORMERR to EDNS, without OPT": ("192.0.2.1", "FORMERR"),
    "FORMERR to EDNS, with OPT": ("192.0.2.1", "FORMERR"),
    "FORMERR to EDNS, only a header": ("192.0.2.1", "no response"),
    "NOTIMP to EDNS, with OPT": ("192.0.2.1", "NOTIMP"),
    "BADVERS to EDNS": ("NODATA", "BADVERS"),
    "REFUSED to EDNS": ("SERVFAIL", "REFUSED"),
    "SERVFAIL to EDNS": ("SERVFAIL", "SERVFAIL"),
    "silent to EDNS": ("no response", "no response"),
    "two OPT records": ("192.0.2.1", "malformed"),
    "OPT with a broken option": ("192.0.2.1", "malformed"),
    "OPT in the answer section": ("SERVFAIL", "malformed"),
    "OPT of version 1": ("192.0.2.1", "192.0.2.1"),
    "answer of 700 bytes without OPT": ("40 addresses", "40 addresses"),
    "FORMERR to every query": ("SERVFAIL", "FORMERR"),
    "NOTIMP to every query": ("SERVFAIL", "NOTIMP"),
    "REFUSED to every query": ("SERVFAIL", "REFUSED"),
    "response code 11": ("SERVFAIL", "DSOTYPENI"),
    "response code 15": ("SERVFAIL", "15"),
    "response code 23": ("SERVFAIL", "BADCOOKIE"),
    "SERVFAIL, only a header": ("SERVFAIL", "no response"),
    "another id, then the answer": ("192.0.2.1", "192.0.2.1"),
    "another question, then the answer": ("SERVFAIL", "192.0.2.1"),
    "question in upper case": ("192.0.2.1", "192.0.2.1"),
    "answer without a question": ("SERVFAIL", "no response"),
    "two questions": ("SERVFAIL", "no response"),
    "from another port; TCP works": ("no response", "no response"),
    "QR clear": ("SERVFAIL", "no response"),
    "opcode 4": ("SERVFAIL", "192.0.2.1"),
    "RA clear": ("192.0.2.1", "192.0.2.1"),
    "AA, AD and Z set": ("192.0.2.1", "192.0.2.1"),
    "empty datagram, then the answer": ("192.0.2.1", "192.0.2.1"),
    "11 bytes, then the answer": ("192.0.2.1", "192.0.2.1"),
    "the answer twice": ("192.0.2.1", "192.0.2.1"),
    "the answer after 0.6 s": ("192.0.2.1", "192.0.2.1"),
    "UDP is silent, TCP works": ("no response", "no response"),
    "bytes after the message": ("192.0.2.1", "192.0.2.1"),
    "TC; TCP works": ("192.0.2.1 192.0.2.2", "TC"),
    "TC; TCP is closed": ("SERVFAIL", "TC"),
    "TC; TCP is silent": ("no response", "TC"),
    "TC; half a message over TCP": ("SERVFAIL", "TC"),
    "TC; length over TCP too large": ("SERVFAIL", "TC"),
    "TC; length over TCP too small": ("SERVFAIL", "TC"),
    "TC over TCP too": ("SERVFAIL", "TC"),
    "TC without records; TCP is closed": ("SERVFAIL", "TC"),
    "name that points to itself": ("SERVFAIL", "SERVFAIL"),
    "name that points forward": ("192.0.2.1 192.0.2.1", "malformed"),
    "name of 257 bytes": ("SERVFAIL", "malformed"),
    "label type 0x40": ("SERVFAIL", "malformed"),
    "more records in the counts than in the message": ("SERVFAIL", "SERVFAIL"),
    "address of 3 bytes": ("malformed", "SERVFAIL"),
    "SRV with a compressed target": ("0 0 0 web.example.", "0 0 0 web.example. (compressed)"),
    "record of another name in addition": ("192.0.2.1", "192.0.2.1 192.0.2.9"),
    "records of another name only": ("NODATA", "192.0.2.9"),
    "record of class CH in addition": ("malformed", "malformed"),
    "records of class CH only": ("malformed", "malformed"),
    "CNAME without the target's records": ("web.example. 192.0.2.1", "web.example."),
    "CNAME to itself": ("SERVFAIL", "www.example."),
    "CNAME loop": ("web.example. 192.0.2.1", "web.example. www.example."),
    "20 CNAMEs": ("n0.example. 192.0.2.1", "20 aliases, 192.0.2.1"),
    "address before its CNAME": ("web.example. 192.0.2.1", "192.0.2.1 web.example."),
    "DNAME with its CNAME": ("test.net. www.test.net. 192.0.2.1", "test.net. www.test.net. 192.0.2.1"),
    "TTL with the top bit set": ("192.0.2.1 (TTL 0)", "192.0.2.1 (TTL 0)"),
    "TTL 0": ("192.0.2.1 (TTL 0)", "192.0.2.1 (TTL 0)"),
    "TTLs 60, 10 and 30 in one set": 2 * ("192.0.2.1 192.0.2.2 192.0.2.3 (TTL 10, 30, 60)",),
    "NXDOMAIN with an address": ("NXDOMAIN 192.0.2.1", "NXDOMAIN 192.0.2.1"),
    "NODATA without SOA": ("NODATA", "NODATA"),
    "NXDOMAIN without SOA": ("NXDOMAIN", "NXDOMAIN"),
    "NXDOMAIN with the SOA of another zone": ("NXDOMAIN", "NXDOMAIN"),
    "referral": ("NODATA", "NODATA"),
}
"""The responses of unbound 1.17.1 and dnsmasq 2.90, by title, as printed by this module."""


# -- responses --------------------------------------------------------------------------------------------


def ask(port: int, qtype: str) -> bytes:
    """Send a query with EDNS over UDP; return the response, or no bytes."""
    query = dns.message.make_query(NAME, qtype, use_edns=0, payload=1232)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(SECONDS)
        sock.sendto(query.to_wire(), ("127.0.0.1", port))
        with contextlib.suppress(TimeoutError):
            return sock.recv(65535)
    return b""


def describe(response: bytes) -> str:
    """A response as text: code, TC, data, and the TTL unless it is 60."""
    if not response:
        return NO_RESPONSE
    try:
        parsed = dns.message.from_wire(response, one_rr_per_rrset=True)
    except dns.exception.DNSException:
        return "malformed"
    data = [rrset[0].to_text() for rrset in parsed.answer]
    if all(rrset.rdtype == dns.rdatatype.A for rrset in parsed.answer):
        data.sort()  # unbound rotates them
    aliases = [rrset for rrset in parsed.answer if rrset.rdtype == dns.rdatatype.CNAME]
    if len(aliases) > SHORTENED:
        data = [f"{len(aliases)} aliases,", *data[len(aliases) :]]
    if len(data) > LISTED:
        data = [f"{len(data)} addresses"]
    rcode = dns.rcode.to_text(parsed.rcode())
    words = [] if rcode == "NOERROR" else [rcode]
    if parsed.flags & dns.flags.TC:
        words.append("TC")
    words += data
    if not words:
        return "NODATA"
    ttls = {rrset.ttl for rrset in parsed.answer}
    if ttls and not ttls <= {59, 60}:
        words.append(f"(TTL {', '.join(map(str, sorted(ttls)))})")
    if any(rrset.rdtype == dns.rdatatype.SRV for rrset in parsed.answer) and EXAMPLE in response[40:]:
        words.append("(compressed)")
    return " ".join(words)


def documented() -> str:
    """The table as Markdown."""
    lines = ["| upstream | zkdns | unbound | dnsmasq |", "|---|---|---|---|"]
    lines += [f"| {' | '.join((case.title, case.ours, *OTHERS[case.title]))} |" for case in CASES]
    return "\n".join(lines) + "\n"


# -- the other servers ------------------------------------------------------------------------------------

_UNBOUND = """\
server:
    interface: 127.0.0.1@{port}
    do-daemonize: no
    username: ""
    chroot: ""
    directory: "{directory}"
    pidfile: "{directory}/pid"
    use-syslog: no
    verbosity: 0
    do-not-query-localhost: no
    module-config: "iterator"
remote-control:
    control-enable: no
forward-zone:
    name: "."
    forward-addr: 127.0.0.1@{upstream}
"""
_DNSMASQ = """\
listen-address=127.0.0.1
bind-interfaces
port={port}
server=127.0.0.1#{upstream}
no-resolv
no-hosts
"""


def _commands(directory: Path) -> dict[str, tuple[str, list[str]]]:
    conf = str(directory / "conf")
    options = ["--keep-in-foreground", f"--conf-file={conf}", "--user=", "--group=", "--pid-file="]
    return {
        "unbound": (_UNBOUND, ["unbound", "-d", "-c", conf]),
        "dnsmasq": (_DNSMASQ, ["dnsmasq", *options, "--log-facility=-"]),
    }


def response_of(server: str, case: Case) -> str:
    """The response of another server with this upstream."""
    with tempfile.TemporaryDirectory() as made, UpstreamServer(case.act) as upstream:
        directory, port = Path(made), free_port()
        text, command = _commands(directory)[server]
        text = text.format(port=port, directory=directory, upstream=upstream.address.port)
        (directory / "conf").write_text(text, encoding="utf-8")
        program = shutil.which(command[0], path="/usr/sbin:/usr/bin:/sbin")
        assert program is not None, f"{server} is not installed"
        process = subprocess.Popen([program, *command[1:]], stderr=subprocess.DEVNULL)
        try:
            end = time.monotonic() + 10
            while time.monotonic() < end:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                    break
                time.sleep(0.02)
            return describe(ask(port, case.qtype))
        finally:
            process.kill()
            process.wait()


SERVERS = ("unbound", "dnsmasq")


def main() -> None:
    """Print each case with the responses of the other servers."""
    with ThreadPoolExecutor(8) as pool:
        columns = [list(pool.map(response_of, len(CASES) * [server], CASES)) for server in SERVERS]
    for case, unbound, dnsmasq in zip(CASES, *columns, strict=True):
        sys.stdout.write(f"    {case.title!r}: ({unbound!r}, {dnsmasq!r}),\n")


if __name__ == "__main__":
    main()
