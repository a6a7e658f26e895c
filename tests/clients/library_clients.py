"""Resolvers of C libraries and programming languages, each called by a small program in `programs/`.

A program prints one record per line, or one line `! CODE` with the error code of the library.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.clients.client import (
    Case,
    Client,
    ClientEnvironment,
    CompletedCommand,
    LookupResult,
    MissingProgramError,
    find,
    records,
)

_PROGRAMS = Path(__file__).parent / "programs"
_NO_SRV = "getaddrinfo returns only addresses"
NO_SRV = {Case.SRV: _NO_SRV, Case.HUNDRED_SRV: _NO_SRV}
NO_SEARCH = {Case.SEARCH: "has no search list"}


def _read(ended: CompletedCommand) -> LookupResult:
    assert ended.returncode == 0, ended
    lines = ended.stdout.splitlines()
    if lines and lines[0].startswith("! "):
        return LookupResult(failure=lines[0][2:])
    return records(lines)


@functools.cache
def _compile(*command: str, directory: Path, name: str, **environment: str) -> str:
    """Compile a program once, and return its path. The command has `{output}` for the path."""
    output = str(directory / name)
    variables = {**os.environ, **environment}
    arguments = [part.replace("{output}", output) for part in command]
    ended = subprocess.run(arguments, check=False, capture_output=True, text=True, env=variables)
    assert ended.returncode == 0, (arguments, ended.stdout, ended.stderr)
    return output


def _python(library: str) -> list[str]:
    return [sys.executable, "-I", str(_PROGRAMS / "lookup.py"), library]


# -- musl ----------------------------------------------------------------------------------------------------


def _musl(environment: ClientEnvironment, query_type: str, name: str) -> list[str]:
    if find("gcc") is None:
        raise MissingProgramError("needs gcc")
    source = str(_PROGRAMS / "lookup.c")
    compiler = ("musl-gcc", "-static", "-Wall", "-Wextra", "-Werror", "-o", "{output}", source)
    return [_compile(*compiler, directory=environment.directory, name="lookup-musl"), query_type, name]


@functools.cache
def _musl_supports_tcp() -> bool:
    """Whether it is musl 1.2.4 or later, which supports TCP and distinguishes NODATA from NXDOMAIN."""
    loader = next(Path("/lib").glob("ld-musl-*.so.1"), None)
    if loader is None:
        return False
    banner = subprocess.run([str(loader)], check=False, capture_output=True, text=True).stderr
    version = re.search(r"Version (\d+)\.(\d+)\.(\d+)", banner)
    assert version, banner
    return tuple(map(int, version.groups())) >= (1, 2, 4)


def _max_records_of_musl(_: str) -> int:
    """The limit: 29 records in 512 bytes over UDP (12 header, 28 question, 16 each), MAXADDRS over TCP."""
    return 48 if _musl_supports_tcp() else 29


# -- Go, Java, Node ------------------------------------------------------------------------------------------


def _go(environment: ClientEnvironment, query_type: str, name: str) -> list[str]:
    output = _compile(
        *("go", "build", "-o", "{output}", str(_PROGRAMS / "lookup.go")),
        directory=environment.directory,
        name="lookup-go",
        GOCACHE=str(environment.directory / "go-cache"),
        CGO_ENABLED="0",
        GOTOOLCHAIN="local",
    )
    return ["env", "GODEBUG=netdns=go", output, query_type, name]


def _java(library: str, environment: ClientEnvironment, query_type: str, name: str) -> list[str]:
    classes = _compile(
        *("javac", "-d", "{output}", str(_PROGRAMS / "Lookup.java")),
        directory=environment.directory,
        name="classes",
    )
    return ["java", "-Xshare:auto", "-cp", classes, "Lookup", library, query_type, name]


def _node(library: str, _: ClientEnvironment, query_type: str, name: str) -> list[str]:
    return ["node", str(_PROGRAMS / "lookup.js"), library, query_type, name]


_JDK = {"java": "default-jdk-headless", "javac": "default-jdk-headless"}
_NODE = {"node": "nodejs"}

LIBRARIES = (
    Client(
        name="CPython getaddrinfo (glibc)",
        command=lambda _, query_type, name: [*_python("getaddrinfo"), query_type, name],
        read=_read,
        nxdomain="EAI_NONAME",
        nodata="EAI_NODATA",
        unsupported=NO_SRV,
    ),
    Client(
        name="musl getaddrinfo",
        command=_musl,
        read=_read,
        nxdomain="EAI_NONAME",
        nodata="EAI_NODATA" if _musl_supports_tcp() else "EAI_NONAME",
        packages={"musl-gcc": "musl-tools"},
        unsupported=NO_SRV,
        max_records=_max_records_of_musl,
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
        nodata="",  # InetAddress looks up both families, and the program filters them
        packages=_JDK,
        unsupported=NO_SRV,
    ),
    Client(
        name="Java JNDI",
        command=functools.partial(_java, "JNDI"),
        read=_read,
        nxdomain="NameNotFoundException",
        nodata="no attributes",
        packages=_JDK,
        unsupported=NO_SEARCH,
        queries_both_families=False,
    ),
    Client(
        name="Node dns.lookup",
        command=functools.partial(_node, "lookup"),
        read=_read,
        nxdomain="ENOTFOUND",
        nodata="ENOTFOUND",
        packages=_NODE,
        unsupported=NO_SRV,
    ),
    Client(
        name="Node dns.resolve (c-ares)",
        command=functools.partial(_node, "resolve"),
        read=_read,
        nxdomain="ENOTFOUND",
        nodata="ENODATA",
        packages=_NODE,
        unsupported=NO_SEARCH,
        queries_both_families=False,
    ),
    Client(
        name="dnspython",
        command=lambda _, query_type, name: [*_python("dnspython"), query_type, name],
        read=_read,
        nxdomain="NXDOMAIN",
        nodata="NoAnswer",
    ),
)
