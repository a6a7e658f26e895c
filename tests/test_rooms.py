"""The walls between the rooms of zkdns/: who may import whom, and how large a room's files may grow.

An arrow points upwards only: a module imports from its own row or from rows above it. Imports inside
functions and those for type checkers alone count like all others: who knows a name depends on its owner.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import zkdns

PACKAGE = Path(zkdns.__file__).parent

ROWS = (
    ("errors", "names", "address", "namespace", "durations", "resolv_conf", "config"),
    ("serverset",),
    # The package itself is the library's front door; whoever imports it is handed what it asks for, no more.
    ("balance", "fixedset", "httpset", "mcset", "thriftset", ""),
    ("registrar",),
    ("table",),
    ("guard", "snapshot"),
    ("dns",),
    ("transport",),
    ("forward",),
    ("telemetry",),
    ("admin",),
    ("daemon",),
    ("host",),
    ("cli",),
    ("__main__",),
)
ROW_OF = {room: number for number, row in enumerate(ROWS) for room in row}

# Packages that a room must not know, and those that only one room may know.
NEVER: dict[str, frozenset[str]] = {
    "dns": frozenset({"socket", "asyncio", "time", "threading"}),
    "table": frozenset({"socket", "asyncio", "time", "dnslib"}),
    "guard": frozenset({"socket", "asyncio", "time", "dnslib"}),
    "snapshot": frozenset({"dnslib"}),
    "serverset": frozenset({"dnslib"}),
    "balance": frozenset({"dnslib"}),
}
ONLY = {"kazoo": "serverset"}

# What commands are made of; every other module of the room is one command.
NO_COMMANDS = frozenset(
    {
        *("cli.__init__", "cli.changes", "cli.columns", "cli.options", "cli.progress", "cli.running"),
        *("cli.names", "cli.sets", "cli.table_copy", "cli.top_rates", "cli.top_view"),
    }
)

MAX_LINES = 700
MAX_FUNCTION = 60


def room_of(module: str) -> str:
    """The room of a module below the package: `dns.message` lies in `dns`."""
    return module.partition(".")[0]


def imports(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported anywhere in a module, relative imports spelled out.

    Args:
        tree: the parsed module.
        module: its name below the package; a package's own module ends in `.__init__`.
    """
    above = ["zkdns", *module.split(".")][:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = above[: len(above) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            if source == "zkdns":  # what is imported may be a room itself
                yield from ((node.lineno, f"zkdns.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, source
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "__import__",
            "import_module",
            "importlib.import_module",
        ):
            named = node.args[0] if node.args else None
            if isinstance(named, ast.JoinedStr) and ast.unparse(named.values[0]) == "{__name__}":
                yield node.lineno, ".".join(above)  # something of its own
            else:
                yield node.lineno, str(named.value) if isinstance(named, ast.Constant) else "zkdns.?"


def offences(text: str, module: str) -> list[str]:
    """What is wrong with a module of that name and text."""
    room = room_of(module).replace("__init__", "")
    if room not in ROW_OF:
        return [f"{module}: the room {room!r} stands in no row"]
    return [
        f"{module}:{line}: {wrong}"
        for line, name in imports(ast.parse(text), module)
        if (wrong := _wrong(room, name))
    ]


def _wrong(room: str, name: str) -> str | None:
    """Why that room must not import that name; None: it may."""
    package, _, below = name.partition(".")
    if package == "zkdns":
        return _wrong_room(room, room_of(below), name)
    if package in NEVER.get(room, ()):
        return f"{room} never imports {package}"
    if ONLY.get(package, room) != room:
        return f"{package} is known to {ONLY[package]} alone"
    return None


def _wrong_room(room: str, other: str, name: str) -> str | None:
    if other in ("", room, "__version__"):
        return None
    if other not in ROW_OF:
        return f"imports {name}, which stands in no row"
    if ROW_OF[other] > ROW_OF[room] or (other == "config" and ROW_OF[room] == ROW_OF["config"]):
        return f"{room} stands above {other}, so it must not import {name}"
    return None


def overgrown(text: str, module: str) -> list[str]:
    """What is too long in a module."""
    lines = text.count("\n")
    found = [f"{module}: {lines} lines, at most {MAX_LINES}"] if lines > MAX_LINES else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            length = node.end_lineno - node.lineno + 1
            if length > MAX_FUNCTION:
                found.append(
                    f"{module}:{node.lineno}: {node.name} has {length} lines, at most {MAX_FUNCTION}"
                )
    return found


def name_of(path: Path) -> str:
    """A file's module below the package, a package's own with `__init__`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_from_its_own_row_and_from_rows_above(path: Path) -> None:
    assert offences(path.read_text(encoding="utf-8"), name_of(path)) == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_and_functions_stay_short_enough_to_be_read_at_one_go(path: Path) -> None:
    assert overgrown(path.read_text(encoding="utf-8"), name_of(path)) == []


def test_every_room_stands_in_a_row() -> None:
    rooms = {room_of(name_of(path)).replace("__init__", "") for path in MODULES}
    assert rooms <= ROW_OF.keys()
    assert {"dns", "table", "serverset", "config", "errors"} <= rooms


def among_commands(text: str, module: str) -> list[str]:
    """What a command imports of another one, so that one could not be changed without the other."""
    if room_of(module) != "cli" or module == "cli.__init__":
        return []
    found = {
        f"cli.{name.split('.')[2]}"
        for _, name in imports(ast.parse(text), module)
        if name.startswith("zkdns.cli.")
    }
    return sorted(found - NO_COMMANDS - {module})


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=name_of)
def test_no_command_imports_another(path: Path) -> None:
    assert among_commands(path.read_text(encoding="utf-8"), name_of(path)) == []


# -- the guard itself ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("table", "import zkdns.dns.message"),
        ("table", "from zkdns.dns import wire"),
        ("table", "from zkdns import dns"),
        ("table", "from . import dns"),
        ("table", "from .dns.wire import Type"),
        ("table", "def f():\n    from zkdns.transport import udp"),
        ("table", "if TYPE_CHECKING:\n    from zkdns.daemon.ipc.feed import Publisher"),
        ("table", "try:\n    pass\nfinally:\n    import zkdns.cli"),
        ("table", "import importlib\nimportlib.import_module('zkdns.dns')"),
        ("table", "__import__('zkdns.dns')"),
        ("table", "from zkdns import snapshot"),
        ("dns.message", "from ..transport import udp"),
        ("dns.message", "from ..transport.udp import UdpServer"),
        ("dns.__init__", "from ..daemon import feed"),
        ("names", "from zkdns.config import Config"),
        ("errors", "import zkdns.config.model"),
        ("serverset.member", "from zkdns.table import Table"),
        ("config.load", "from zkdns.serverset.member import Status"),
        ("balance.robin", "from zkdns.dns.message import Type"),
        ("balance.robin", "import kazoo.client"),
        ("transport.udp", "from zkdns.telemetry.log_setup import configure_logging"),
        ("telemetry.stats", "from zkdns.admin.status import Status"),
        ("admin.api", "from zkdns.daemon.ipc.control import Flushed"),
        ("cli.serve", "import zkdns.__main__"),
        ("__init__", "from zkdns.table import Table"),
        ("dns.message", "import socket"),
        ("dns.message", "import asyncio.streams"),
        ("dns.message", "def f():\n    import time"),
        ("dns.message", "from threading import Lock"),
        ("table", "import time"),
        ("table", "from asyncio import Queue"),
        ("guard", "import socket"),
        ("guard", "from time import monotonic"),
        ("daemon.watcher.watcher", "from kazoo.client import KazooClient"),
        ("daemon.watcher.watcher", "if TYPE_CHECKING:\n    from kazoo.client import KazooClient"),
        ("cli.lookup", "import kazoo"),
        ("serverset.sync", "import dnslib"),
        ("snapshot", "from dnslib import DNSRecord"),
        ("kitchen", ""),
        ("kitchen.sink", "import os"),
        ("dns.message", "from zkdns.kitchen import sink"),
    ],
)
def test_a_wall_that_is_broken_is_noticed(module: str, text: str) -> None:
    assert len(offences(text, module)) == 1


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("__init__", "import sys"),
        ("names", "from zkdns.errors import BadValueError"),
        ("config.load", "from zkdns.namespace import Namespace\nfrom zkdns.config.model import Config"),
        ("serverset.sync", "from kazoo.client import KazooClient\nimport asyncio, time"),
        (
            "serverset.sync",
            "from . import member\nfrom .member import Member\nfrom ..errors import ZkdnsError",
        ),
        ("httpset", "from zkdns.balance.robin import RoundRobin"),
        ("guard", "from zkdns.serverset.changes import Change"),
        ("dns.__init__", "from . import wire"),
        ("dns.responder", "from zkdns.table import Table\nimport dnslib"),
        (
            "daemon.watcher.watcher",
            "import asyncio, socket, time\nfrom zkdns.serverset.client import make_client",
        ),
        ("cli.__init__", "import zkdns\nfrom zkdns import __version__\nfrom zkdns.daemon import supervisor"),
        ("__main__", "from zkdns.cli import main"),
    ],
)
def test_a_door_that_is_open_stays_open(module: str, text: str) -> None:
    assert offences(text, module) == []


@pytest.mark.parametrize("text", ["from zkdns.cli.register import FAILED", "from .register import FAILED"])
def test_a_command_that_imports_another_is_noticed(text: str) -> None:
    assert among_commands(text, "cli.watch") == ["cli.register"]
    assert among_commands(text, "cli.__init__") == []
    assert among_commands(text.replace("register", "sets"), "cli.watch") == []


def test_what_is_too_long_is_noticed() -> None:
    body = "    pass\n"
    assert overgrown(f"def f():\n{body * 59}", "dns.message") == []
    assert overgrown(f"def f():\n{body * 60}", "dns.message") == ["dns.message:1: f has 61 lines, at most 60"]
    assert overgrown(f"class C:\n    async def f():\n{('    ' + body) * 60}", "x") != []
    assert overgrown("#\n" * 700, "dns.message") == []
    assert overgrown("#\n" * 701, "dns.message") == ["dns.message: 701 lines, at most 700"]
