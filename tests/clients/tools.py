"""What people and scripts ask with."""

from __future__ import annotations

import re

from tests.clients.client import Client, Ended, Found, Workplace, records
from tests.clients.libraries import NO_SEARCH, NO_SRV

_FAMILY = {"A": "4", "AAAA": "6", "both": ""}
# Its type as it stands in a zone file: owner, TTL, class, type, data.
_RECORD = re.compile(r"^\S+\s+\d+\s+IN\s+(?:A|AAAA|SRV)\s+(.*)$", re.MULTILINE)
_STATUS = re.compile(r"(?:status|rcode): (\w+)")


def _kind(kind: str) -> str:
    """What those ask for `both` who ask for one type at a time."""
    return "A" if kind == "both" else kind


# -- those that print what a zone file has -------------------------------------------------------------------


def read_answer(ended: Ended) -> Found:
    """The records of the section ANSWER, or the code of the response."""
    assert ended.returncode == 0, ended
    status = _STATUS.search(ended.stdout)
    assert status, ended
    answer = re.search(r"^;; ANSWER SECTION:\n(.*?)\n\n", ended.stdout, re.MULTILINE | re.DOTALL)
    return records(_RECORD.findall(answer[1]) if answer else [], status[1])


def dig(_: Workplace, kind: str, name: str) -> list[str]:
    """With the search list for short names alone, since it would be gone through after each NXDOMAIN too."""
    return ["dig", *([] if "." in name else ["+search"]), name, _kind(kind)]


# -- getent, busybox, host, curl -----------------------------------------------------------------------------


def _getent(_: Workplace, kind: str, name: str) -> list[str]:
    return ["getent", f"ahosts{'v' * bool(_FAMILY[kind])}{_FAMILY[kind]}", name]


def _read_getent(ended: Ended) -> Found:
    """Without the IPv4 addresses that it tells as IPv6 where there are no others (AI_V4MAPPED)."""
    lines = [
        line.split()[0] for line in ended.stdout.splitlines() if "STREAM" in line and "::ffff:" not in line
    ]
    return records(lines, f"exit {ended.returncode}")


def _busybox(_: Workplace, kind: str, name: str) -> list[str]:
    return ["busybox", "nslookup", *([] if kind == "both" else [f"-type={kind.lower()}"]), name]


def _read_busybox(ended: Ended) -> Found:
    """What follows the server's own address."""
    assert ended.stdout.startswith("Server:"), ended
    answer = ended.stdout.partition("\n\n")[2]
    failure = re.search(r"can't find .*: (\w+)", answer)
    found = re.findall(r"(?:^Address: |service = )(.*)$", answer, re.MULTILINE)
    return records(found, failure[1] if failure else f"exit {ended.returncode}")


def _host(_: Workplace, kind: str, name: str) -> list[str]:
    return ["host", *([] if kind == "both" else ["-t", kind]), name]


def _read_host(ended: Ended) -> Found:
    found = re.findall(r"has (?:IPv6 address|address|SRV record) (.*)$", ended.stdout, re.MULTILINE)
    failure = re.search(r"\((\w+)\)|has (no \w+ record)", ended.stdout)
    return records(found, (failure[1] or failure[2]) if failure else ended.stdout)


def _curl(at: Workplace, kind: str, name: str) -> list[str]:
    family = [f"-{_FAMILY[kind]}"] if _FAMILY[kind] else []
    show = ("--silent", "--output", "/dev/null", "--write-out", "%{remote_ip}")
    return ["curl", *family, *show, "--noproxy", "*", f"http://{name}:{at.port}/"]


def _read_curl(ended: Ended) -> Found:
    return records(ended.stdout.split(), f"exit {ended.returncode}")


DIG = Client(
    name="dig",
    command=dig,
    read=read_answer,
    nxdomain="NXDOMAIN",
    nodata="NOERROR",
    packages={"dig": "bind9-dnsutils"},
    asks_both=False,
)

TOOLS = (
    Client(
        name="getent (glibc)",
        command=_getent,
        read=_read_getent,
        nxdomain="exit 2",
        nodata="exit 0",
        packages={"getent": "libc-bin"},
        cannot=NO_SRV,
    ),
    Client(
        name="busybox nslookup",
        command=_busybox,
        read=_read_busybox,
        nxdomain="NXDOMAIN",
        nodata="exit 0",
        packages={"busybox": "busybox"},
        # 512 bytes: 12 header, 28 question; an A is 16, an SRV 45 or 46 since targets are not compressed.
        most={"A": 29, "SRV": 10}.get,
    ),
    DIG,
    Client(
        name="kdig",
        command=lambda _, kind, name: ["kdig", name, _kind(kind)],
        read=read_answer,
        nxdomain="NXDOMAIN",
        nodata="NOERROR",
        packages={"kdig": "knot-dnsutils"},
        cannot=NO_SEARCH,
        asks_both=False,
    ),
    Client(
        name="drill",
        command=lambda _, kind, name: ["drill", name, _kind(kind)],
        read=read_answer,
        nxdomain="NXDOMAIN",
        nodata="NOERROR",
        packages={"drill": "ldnsutils"},
        cannot=NO_SEARCH,
        most={"A": 29, "SRV": 10}.get,  # as above; it advises to ask over TCP
        asks_both=False,
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
        nodata="exit 7",  # it has found addresses, but none that it may connect to
        packages={"curl": "curl"},
        cannot=NO_SRV,
        most=lambda _: 1,  # the one that it connects to
    ),
)
