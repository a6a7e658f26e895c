"""A client program: the command that makes it look up a name, and the parsing of its output.

The query types are A, AAAA, SRV, and `both`: addresses of both families, which programs look up before they
connect.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

CompletedCommand = subprocess.CompletedProcess[str]

# Directories of programs that may not be on the PATH.
_DIRECTORIES = "/usr/sbin:/sbin:/usr/lib/systemd:/lib/systemd"


class MissingProgramError(Exception):
    """A client is not installed. The message names the package."""


class Case(Enum):
    """A test case, with its name in the summary."""

    A = "A"
    AAAA = "AAAA"
    WITHOUT_AAAA = "no AAAA"
    SRV = "SRV"
    NXDOMAIN = "NXDOMAIN"
    HUNDRED = "100 A"
    HUNDRED_SRV = "100 SRV"
    SEARCH = "search"


@dataclass(frozen=True)
class LookupResult:
    """The result of a client: sorted records, or the error code of the client."""

    records: tuple[str, ...] = ()
    failure: str = ""


@dataclass(frozen=True)
class ClientEnvironment:
    """The environment of a client.

    Attributes:
        directory: for compiled programs.
        port: the port of the services.
        run: runs a command.
    """

    directory: Path
    port: int
    run: Callable[..., CompletedCommand]


@dataclass(frozen=True)
class Client:
    """A client program or resolver library.

    Attributes:
        name: the name in the summary.
        command: the command for an environment, a query type and a name; raises MissingProgramError.
        read: parses the output.
        nxdomain: the error code for a name that does not exist.
        nodata: the error code for a name without records of the query type.
        packages: the Debian packages of the required programs.
        unsupported: the reasons why cases are skipped.
        max_records: the maximum number of records that it returns, by query type; None: no limit.
        queries_both_families: whether one look-up returns addresses of both families.
        resolved: whether it queries systemd-resolved, which forwards to the server.
    """

    name: str
    command: Callable[[ClientEnvironment, str, str], list[str]]
    read: Callable[[CompletedCommand], LookupResult]
    nxdomain: str
    nodata: str
    packages: Mapping[str, str] = field(default_factory=dict)
    unsupported: Mapping[Case, str] = field(default_factory=dict)
    max_records: Callable[[str], int | None] = lambda _: None
    queries_both_families: bool = True
    resolved: bool = False

    def look_up(self, environment: ClientEnvironment, query_type: str, name: str) -> LookupResult:
        """Run the client, and parse its output."""
        return self.read(environment.run(*self.command(environment, query_type, name)))

    def require(self) -> None:
        """Raise MissingProgramError if a required program is missing."""
        for program, package in self.packages.items():
            if find(program) is None:
                raise MissingProgramError(f"needs {package}")


def find(program: str) -> str | None:
    """The path of a program, or None."""
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:{_DIRECTORIES}")


def records(lines: list[str], failure: str = "") -> LookupResult:
    """The records in canonical form (RFC 5952, no final dot), or the failure if there are none."""
    found = tuple(sorted(_record(line) for line in lines))
    return LookupResult(found) if found else LookupResult(failure=failure)


def _record(text: str) -> str:
    if " " in text:
        return text.removesuffix(".")
    return str(ipaddress.ip_address(text))
