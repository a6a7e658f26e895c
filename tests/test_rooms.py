"""The dependencies between the packages of zkdns, and the maximum size of files and functions.

A module imports only from its own row or from rows above it. Imports inside functions and those for type
checkers count like all others.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import zkdns

PACKAGE = Path(zkdns.__file__).parent

ROWS = (
    ("errors", "names", "address", "namespace", "config"),
    ("serverset",),
    # The package zkdns itself, which re-exports the library.
    ("balance", "fixedset", "httpset", "mcset", "thriftset", ""),
    ("table",),
    ("guard", "snapshot"),
    ("dns",),
    ("transport",),
    ("forward",),
    ("observe",),
    ("daemon",),
    ("machine",),
    ("cli",),
    ("__main__",),
)
ROW_OF = {package: number for number, row in enumerate(ROWS) for package in row}

# Packages that a package must not import, and packages that only one may import.
NEVER: dict[str, frozenset[str]] = {
    "dns": frozenset({"socket", "asyncio", "time", "threading"}),
    "table": frozenset({"socket", "asyncio", "time", "dnslib"}),
    "guard": frozenset({"socket", "asyncio", "time", "dnslib"}),
    "snapshot": frozenset({"dnslib"}),
    "serverset": frozenset({"dnslib"}),
    "balance": frozenset({"dnslib"}),
}
ONLY = {"kazoo": "serverset"}

# The helpers of the commands. Every other module of the package is one command.
COMMAND_HELPERS = frozenset(
    {
        *("cli.__init__", "cli.changes", "cli.columns", "cli.options", "cli.progress", "cli.running"),
        *("cli.names", "cli.sets", "cli.top_view"),
    }
)

MAX_LINES = 700
MAX_FUNCTION = 60


def package_of(module: str) -> str:
    """The package of a module: `dns` for `dns.wire`."""
    return module.partition(".")[0]


def imports(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """The line and full name of every import in a module. Relative imports are resolved.

    Args:
        tree: the parsed module.
        module: its name without `zkdns.`; that of a package ends in `.__init__`.
    """
    above = ["zkdns", *module.split(".")][:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = above[: len(above) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            if source == "zkdns":  # it may be a package itself
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
                yield node.lineno, ".".join(above)  # a module of its own package
            else:
                yield node.lineno, str(named.value) if isinstance(named, ast.Constant) else "zkdns.?"


def forbidden_imports(text: str, module: str) -> list[str]:
    """The forbidden imports of a module with this name and text."""
    package = package_of(module).replace("__init__", "")
    if package not in ROW_OF:
        return [f"{module}: the package {package!r} is in no row"]
    return [
        f"{module}:{line}: {wrong}"
        for line, name in imports(ast.parse(text), module)
        if (wrong := _wrong(package, name))
    ]


def _wrong(package: str, name: str) -> str | None:
    """Why a package must not import this name. None: it may."""
    top_level, _, below = name.partition(".")
    if top_level == "zkdns":
        return _wrong_package(package, package_of(below), name)
    if top_level in NEVER.get(package, ()):
        return f"{package} must not import {top_level}"
    if ONLY.get(top_level, package) != package:
        return f"only {ONLY[top_level]} may import {top_level}"
    return None


def _wrong_package(package: str, other: str, name: str) -> str | None:
    if other in ("", package, "__version__"):
        return None
    if other not in ROW_OF:
        return f"imports {name}, which is in no row"
    if ROW_OF[other] > ROW_OF[package] or (other == "config" and ROW_OF[package] == ROW_OF["config"]):
        return f"{package} is above {other}, so it must not import {name}"
    return None


def too_long(text: str, module: str) -> list[str]:
    """The file and functions of a module that are too long."""
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
    """The name of a file's module without `zkdns.`; that of a package ends in `.__init__`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_from_its_own_row_and_rows_above(path: Path) -> None:
    assert forbidden_imports(path.read_text(encoding="utf-8"), name_of(path)) == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_and_functions_are_short(path: Path) -> None:
    assert too_long(path.read_text(encoding="utf-8"), name_of(path)) == []


def test_every_package_is_in_a_row() -> None:
    packages = {package_of(name_of(path)).replace("__init__", "") for path in MODULES}
    assert packages <= ROW_OF.keys()
    assert {"dns", "table", "serverset", "config", "errors"} <= packages


def among_commands(text: str, module: str) -> list[str]:
    """The commands that a command imports. None is allowed, so that each can be changed on its own."""
    if package_of(module) != "cli" or module == "cli.__init__":
        return []
    found = {
        f"cli.{name.split('.')[2]}"
        for _, name in imports(ast.parse(text), module)
        if name.startswith("zkdns.cli.")
    }
    return sorted(found - COMMAND_HELPERS - {module})


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=name_of)
def test_no_command_imports_another(path: Path) -> None:
    assert among_commands(path.read_text(encoding="utf-8"), name_of(path)) == []


# -- the test's own functions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("table", "import zkdns.dns.wire"),
        ("table", "from zkdns.dns import wire"),
        ("table", "from zkdns import dns"),
        ("table", "from . import dns"),
        ("table", "from .dns.wire import Type"),
        ("table", "def f():\n    from zkdns.transport import udp"),
        ("table", "if TYPE_CHECKING:\n    from zkdns.daemon.feed import Publisher"),
        ("table", "try:\n    pass\nfinally:\n    import zkdns.cli"),
        ("table", "import importlib\nimportlib.import_module('zkdns.dns')"),
        ("table", "__import__('zkdns.dns')"),
        ("table", "from zkdns import snapshot"),
        ("dns.wire", "from ..transport import udp"),
        ("dns.wire", "from ..transport.udp import UdpServer"),
        ("dns.__init__", "from ..daemon import feed"),
        ("names", "from zkdns.config import Config"),
        ("errors", "import zkdns.config.model"),
        ("serverset.member", "from zkdns.table import Table"),
        ("config.load", "from zkdns.serverset.member import Status"),
        ("balance.robin", "from zkdns.dns.wire import Type"),
        ("balance.robin", "import kazoo.client"),
        ("transport.udp", "from zkdns.observe.logs import configure_logs"),
        ("cli.serve", "import zkdns.__main__"),
        ("__init__", "from zkdns.table import Table"),
        ("dns.wire", "import socket"),
        ("dns.wire", "import asyncio.streams"),
        ("dns.wire", "def f():\n    import time"),
        ("dns.wire", "from threading import Lock"),
        ("table", "import time"),
        ("table", "from asyncio import Queue"),
        ("guard", "import socket"),
        ("guard", "from time import monotonic"),
        ("daemon.watcher", "from kazoo.client import KazooClient"),
        ("daemon.watcher", "if TYPE_CHECKING:\n    from kazoo.client import KazooClient"),
        ("cli.lookup", "import kazoo"),
        ("serverset.sync", "import dnslib"),
        ("snapshot", "from dnslib import DNSRecord"),
        ("unknown", ""),
        ("unknown.sink", "import os"),
        ("dns.wire", "from zkdns.unknown import sink"),
    ],
)
def test_a_forbidden_import_is_detected(module: str, text: str) -> None:
    assert len(forbidden_imports(text, module)) == 1


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
        ("daemon.watcher", "import asyncio, socket, time\nfrom zkdns.serverset.client import make_client"),
        ("cli.__init__", "import zkdns\nfrom zkdns import __version__\nfrom zkdns.daemon import supervisor"),
        ("__main__", "from zkdns.cli import main"),
    ],
)
def test_a_permitted_import_is_accepted(module: str, text: str) -> None:
    assert forbidden_imports(text, module) == []


@pytest.mark.parametrize("text", ["from zkdns.cli.register import FAILED", "from .register import FAILED"])
def test_a_command_that_imports_another_is_detected(text: str) -> None:
    assert among_commands(text, "cli.watch") == ["cli.register"]
    assert among_commands(text, "cli.__init__") == []
    assert among_commands(text.replace("register", "sets"), "cli.watch") == []


def test_long_files_and_functions_are_detected() -> None:
    body = "    pass\n"
    assert too_long(f"def f():\n{body * 59}", "dns.wire") == []
    assert too_long(f"def f():\n{body * 60}", "dns.wire") == ["dns.wire:1: f has 61 lines, at most 60"]
    assert too_long(f"class C:\n    async def f():\n{('    ' + body) * 60}", "x") != []
    assert too_long("#\n" * 700, "dns.wire") == []
    assert too_long("#\n" * 701, "dns.wire") == ["dns.wire: 701 lines, at most 700"]
