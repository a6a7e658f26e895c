"""Command-line tools as clients."""

from __future__ import annotations

import re

from tests.clients.client import Client, ClientEnvironment, CompletedCommand, LookupResult, records
from tests.clients.library_clients import NO_SEARCH, NO_SRV

_FAMILY = {"A": "4", "AAAA": "6", "both": ""}
# A line in zone file format: owner, TTL, class, type, data.
_RECORD = re.compile(r"^\S+\s+\d+\s+IN\s+(?:A|AAAA|SRV)\s+(.*)$", re.MULTILINE)
_STATUS = re.compile(r"(?:status|rcode): (\w+)")


def _single_type(query_type: str) -> str:
    """The type for tools that query one type at a time."""
    return "A" if query_type == "both" else query_type


# -- tools with zone file format in the output ---------------------------------------------------------------


def read_answer(ended: CompletedCommand) -> LookupResult:
    """The records of the answer section, or the response code."""
    assert ended.returncode == 0, ended
    status = _STATUS.search(ended.stdout)
    assert status, ended
    answer = re.search(r"^;; ANSWER SECTION:\n(.*?)\n\n", ended.stdout, re.MULTILINE | re.DOTALL)
    return records(_RECORD.findall(answer[1]) if answer else [], status[1])


def dig(_: ClientEnvironment, query_type: str, name: str) -> list[str]:
    """Use the search list only for short names; otherwise dig would apply it after each NXDOMAIN."""
    return ["dig", *([] if "." in name else ["+search"]), name, _single_type(query_type)]


# -- getent, busybox, host, curl -----------------------------------------------------------------------------


def _getent(_: ClientEnvironment, query_type: str, name: str) -> list[str]:
    return ["getent", f"ahosts{'v' * bool(_FAMILY[query_type])}{_FAMILY[query_type]}", name]


def _read_getent(ended: CompletedCommand) -> LookupResult:
    """Without IPv4-mapped IPv6 addresses, which it prints if there are no IPv6 addresses (AI_V4MAPPED)."""
    lines = [
        line.split()[0] for line in ended.stdout.splitlines() if "STREAM" in line and "::ffff:" not in line
    ]
    return records(lines, f"exit {ended.returncode}")


def _busybox(_: ClientEnvironment, query_type: str, name: str) -> list[str]:
    return ["busybox", "nslookup", *([] if query_type == "both" else [f"-type={query_type.lower()}"]), name]


def _read_busybox(ended: CompletedCommand) -> LookupResult:
    """The output after the address of the server."""
    assert ended.stdout.startswith("Server:"), ended
    answer = ended.stdout.partition("\n\n")[2]
    failure = re.search(r"can't find .*: (\w+)", answer)
    found = re.findall(r"(?:^Address: |service = )(.*)$", answer, re.MULTILINE)
    return records(found, failure[1] if failure else f"exit {ended.returncode}")


def _host(_: ClientEnvironment, query_type: str, name: str) -> list[str]:
    return ["host", *([] if query_type == "both" else ["-t", query_type]), name]


def _read_host(ended: CompletedCommand) -> LookupResult:
    found = re.findall(r"has (?:IPv6 address|address|SRV record) (.*)$", ended.stdout, re.MULTILINE)
    failure = re.search(r"\((\w+)\)|has (no \w+ record)", ended.stdout)
    return records(found, (failure[1] or failure[2]) if failure else ended.stdout)


def _curl(environment: ClientEnvironment, query_type: str, name: str) -> list[str]:
    family = [f"-{_FAMILY[query_type]}"] if _FAMILY[query_type] else []
    show = ("--silent", "--output", "/dev/null", "--write-out", "%{remote_ip}")
    return ["curl", *family, *show, "--noproxy", "*", f"http://{name}:{environment.port}/"]


def _read_curl(ended: CompletedCommand) -> LookupResult:
    return records(ended.stdout.split(), f"exit {ended.returncode}")


DIG = Client(
    name="dig",
    command=dig,
    read=read_answer,
    nxdomain="NXDOMAIN",
    nodata="NOERROR",
    packages={"dig": "bind9-dnsutils"},
    queries_both_families=False,
)

TOOLS = (
    Client(
        name="getent (glibc)",
        command=_getent,
        read=_read_getent,
        nxdomain="exit 2",
        nodata="exit 0",
        packages={"getent": "libc-bin"},
        unsupported=NO_SRV,
    ),
    Client(
        name="busybox nslookup",
        command=_busybox,
        read=_read_busybox,
        nxdomain="NXDOMAIN",
        nodata="exit 0",
        packages={"busybox": "busybox"},
        # 512 bytes: 12 header, 28 question; an A record has 16, an SRV record 45 or 46 (targets are not
        # compressed).
        max_records={"A": 29, "SRV": 10}.get,
    ),
    DIG,
    Client(
        name="kdig",
        command=lambda _, query_type, name: ["kdig", name, _single_type(query_type)],
        read=read_answer,
        nxdomain="NXDOMAIN",
        nodata="NOERROR",
        packages={"kdig": "knot-dnsutils"},
        unsupported=NO_SEARCH,
        queries_both_families=False,
    ),
    Client(
        name="drill",
        command=lambda _, query_type, name: ["drill", name, _single_type(query_type)],
        read=read_answer,
        nxdomain="NXDOMAIN",
        nodata="NOERROR",
        packages={"drill": "ldnsutils"},
        unsupported=NO_SEARCH,
        max_records={"A": 29, "SRV": 10}.get,  # as above; drill does not retry over TCP
        queries_both_families=False,
    ),
    Client(
        name="host",
        command=_host,
        read=_read_host,
        nxdomain="NXDOMAIN",
        nodata="no AAAA record",
        packages={"host": "bind9-host"},
    ),
    Client(
        name="curl",
        command=_curl,
        read=_read_curl,
        nxdomain="exit 6",
        nodata="exit 7",  # curl found only addresses of the other family
        packages={"curl": "curl"},
        unsupported=NO_SRV,
        max_records=lambda _: 1,  # the address that it connects to
    ),
)
