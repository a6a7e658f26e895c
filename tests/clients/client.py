"""A client: how it is asked, and how what it tells is read.

The kinds of questions are A, AAAA and SRV, and `both`: addresses of either family at once, which programs ask
for that want to connect.
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

Ended = subprocess.CompletedProcess[str]

# Where programs are that only root has on the PATH, or that nobody has.
_PLACES = "/usr/sbin:/sbin:/usr/lib/systemd:/lib/systemd"


class MissingError(Exception):
    """A client is not on this machine; the message says what would bring it."""


class Case(Enum):
    """What a client is asked for, as the summary names it."""

    A = "A"
    AAAA = "AAAA"
    WITHOUT_AAAA = "no AAAA"
    SRV = "SRV"
    NXDOMAIN = "NXDOMAIN"
    HUNDRED = "100 A"
    HUNDRED_SRV = "100 SRV"
    SEARCH = "search"


@dataclass(frozen=True)
class Found:
    """What a client has told: sorted records, or the word by which it tells that there are none."""

    records: tuple[str, ...] = ()
    failure: str = ""


@dataclass(frozen=True)
class Workplace:
    """Where a client runs: a directory for what is compiled, the services' port, and what runs a command."""

    directory: Path
    port: int
    run: Callable[..., Ended]


@dataclass(frozen=True)
class Client:
    """One way in which programs ask.

    Attributes:
        name: as the summary has it.
        command: of a workplace, a kind and a name, what asks; raises MissingError.
        read: what that has told.
        nxdomain: its word for a name that does not exist.
        nodata: its word for a name without records of that kind.
        packages: Debian's, by the programs that it needs.
        cannot: the reasons, in a few words, for which cases are left out.
        most: of a kind, how many records it tells where there are more.
        asks_both: whether it asks for addresses of either family at once.
        resolved: asks systemd-resolved, which asks the server.
    """

    name: str
    command: Callable[[Workplace, str, str], list[str]]
    read: Callable[[Ended], Found]
    nxdomain: str
    nodata: str
    packages: Mapping[str, str] = field(default_factory=dict)
    cannot: Mapping[Case, str] = field(default_factory=dict)
    most: Callable[[str], int | None] = lambda _: None
    asks_both: bool = True
    resolved: bool = False

    def ask(self, workplace: Workplace, kind: str, name: str) -> Found:
        """Ask, and read what comes."""
        return self.read(workplace.run(*self.command(workplace, kind, name)))

    def require(self) -> None:
        """Raise MissingError where one of its programs is missing."""
        for program, package in self.packages.items():
            if find(program) is None:
                raise MissingError(f"needs {package}")


def find(program: str) -> str | None:
    """The path of a program."""
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:{_PLACES}")


def records(lines: list[str], failure: str = "") -> Found:
    """Addresses as RFC 5952 writes them, targets without their last dot; the failure where there are none."""
    found = tuple(sorted(_record(line) for line in lines))
    return Found(found) if found else Found(failure=failure)


def _record(text: str) -> str:
    if " " in text:
        return text.removesuffix(".")
    return str(ipaddress.ip_address(text))
