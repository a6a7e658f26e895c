"""What programs ask with: the resolvers of C libraries and of languages, each in a small program of ours.

Every program prints a record a line, or one line `! WORD` with the library's own word for a failure.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.clients.client import Case, Client, Ended, Found, MissingError, Workplace, find, records

_PROGRAMS = Path(__file__).parent / "programs"
_NO_SRV = "getaddrinfo asks for addresses only"
NO_SRV = {Case.SRV: _NO_SRV, Case.HUNDRED_SRV: _NO_SRV}
NO_SEARCH = {Case.SEARCH: "knows no search list"}


def _read(ended: Ended) -> Found:
    assert ended.returncode == 0, ended
    lines = ended.stdout.splitlines()
    if lines and lines[0].startswith("! "):
        return Found(failure=lines[0][2:])
    return records(lines)


@functools.cache
def _compile(*command: str, directory: Path, name: str, **environment: str) -> str:
    """The path of what this command makes in the directory, once."""
    made = str(directory / name)
    own = {**os.environ, **environment}
    arguments = [part.replace("{made}", made) for part in command]
    ran = subprocess.run(arguments, check=False, capture_output=True, text=True, env=own)
    assert ran.returncode == 0, (arguments, ran.stdout, ran.stderr)
    return made


def _python(library: str) -> list[str]:
    return [sys.executable, "-I", str(_PROGRAMS / "lookup.py"), library]


# -- musl ----------------------------------------------------------------------------------------------------


def _musl(at: Workplace, kind: str, name: str) -> list[str]:
    if find("gcc") is None:
        raise MissingError("needs gcc")
    source = str(_PROGRAMS / "lookup.c")
    compiler = ("musl-gcc", "-static", "-Wall", "-Wextra", "-Werror", "-o", "{made}", source)
    return [_compile(*compiler, directory=at.directory, name="lookup-musl"), kind, name]


@functools.cache
def _musl_asks_over_tcp() -> bool:
    """Whether it is musl 1.2.4 or later, which asks over TCP too, and tells NODATA from NXDOMAIN."""
    loader = next(Path("/lib").glob("ld-musl-*.so.1"), None)
    if loader is None:
        return False
    told = subprocess.run([str(loader)], check=False, capture_output=True, text=True).stderr
    version = re.search(r"Version (\d+)\.(\d+)\.(\d+)", told)
    assert version, told
    return tuple(map(int, version.groups())) >= (1, 2, 4)


def _most_of_musl(_: str) -> int:
    """29 records fill the 512 bytes of UDP: 12 header, 28 question, 16 each. Over TCP it keeps MAXADDRS."""
    return 48 if _musl_asks_over_tcp() else 29


# -- Go, Java, Node ------------------------------------------------------------------------------------------


def _go(at: Workplace, kind: str, name: str) -> list[str]:
    made = _compile(
        *("go", "build", "-o", "{made}", str(_PROGRAMS / "lookup.go")),
        directory=at.directory,
        name="lookup-go",
        GOCACHE=str(at.directory / "go-cache"),
        CGO_ENABLED="0",
        GOTOOLCHAIN="local",
    )
    return ["env", "GODEBUG=netdns=go", made, kind, name]


def _java(library: str, at: Workplace, kind: str, name: str) -> list[str]:
    classes = _compile(
        *("javac", "-d", "{made}", str(_PROGRAMS / "Lookup.java")), directory=at.directory, name="classes"
    )
    return ["java", "-Xshare:auto", "-cp", classes, "Lookup", library, kind, name]


def _node(library: str, _: Workplace, kind: str, name: str) -> list[str]:
    return ["node", str(_PROGRAMS / "lookup.js"), library, kind, name]


_JDK = {"java": "default-jdk-headless", "javac": "default-jdk-headless"}
_NODE = {"node": "nodejs"}

LIBRARIES = (
    Client(
        name="CPython getaddrinfo (glibc)",
        command=lambda _, kind, name: [*_python("getaddrinfo"), kind, name],
        read=_read,
        nxdomain="EAI_NONAME",
        nodata="EAI_NODATA",
        cannot=NO_SRV,
    ),
    Client(
        name="musl getaddrinfo",
        command=_musl,
        read=_read,
        nxdomain="EAI_NONAME",
        nodata="EAI_NODATA" if _musl_asks_over_tcp() else "EAI_NONAME",
        packages={"musl-gcc": "musl-tools"},
        cannot=NO_SRV,
        most=_most_of_musl,
    ),
    Client(
        name="Go net",
        command=_go,
        read=_read,
        nxdomain="IsNotFound",
        nodata="IsNotFound",
        packages={"go": "golang-go"},
    ),
    Client(
        name="Java InetAddress",
        command=functools.partial(_java, "InetAddress"),
        read=_read,
        nxdomain="UnknownHostException",
        nodata="",  # it asks for both, and the program leaves out what is not wanted
        packages=_JDK,
        cannot=NO_SRV,
    ),
    Client(
        name="Java JNDI",
        command=functools.partial(_java, "JNDI"),
        read=_read,
        nxdomain="NameNotFoundException",
        nodata="no attributes",
        packages=_JDK,
        cannot=NO_SEARCH,
        asks_both=False,
    ),
    Client(
        name="Node dns.lookup",
        command=functools.partial(_node, "lookup"),
        read=_read,
        nxdomain="ENOTFOUND",
        nodata="ENOTFOUND",
        packages=_NODE,
        cannot=NO_SRV,
    ),
    Client(
        name="Node dns.resolve (c-ares)",
        command=functools.partial(_node, "resolve"),
        read=_read,
        nxdomain="ENOTFOUND",
        nodata="ENODATA",
        packages=_NODE,
        cannot=NO_SEARCH,
        asks_both=False,
    ),
    Client(
        name="dnspython",
        command=lambda _, kind, name: [*_python("dnspython"), kind, name],
        read=_read,
        nxdomain="NXDOMAIN",
        nodata="NoAnswer",
    ),
)
