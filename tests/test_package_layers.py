"""The import rules between the packages of zkdns/, and the maximum length of files and functions.

Packages are in layers. A module may import from the layer of its own package and from the layers before it.
Imports inside functions and under TYPE_CHECKING count too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import zkdns

PACKAGE = Path(zkdns.__file__).parent

LAYERS = (
    (
        "clock",
        "errors",
        "causes",
        "escape",
        "names",
        "address",
        "namespace",
        "spelling",
        "durations",
        "plurals",
        "resolv_conf",
        "config",
    ),
    ("serverset",),
    # "" is the package zkdns itself, which imports the library's modules when they are used.
    ("balance", "fixedset", "httpset", "mcset", "thriftset", ""),
    ("registrar",),
    ("table", "digest"),
    ("guard", "snapshot"),
    ("dns",),
    ("secondary",),
    ("transport",),
    ("forward",),
    ("telemetry",),
    ("admin",),
    ("daemon",),
    ("host",),
    ("cli",),
    ("__main__",),
)
LAYER_OF = {package: number for number, layer in enumerate(LAYERS) for package in layer}

# Modules that a package must not import.
NEVER: dict[str, frozenset[str]] = {
    "dns": frozenset({"socket", "asyncio", "time", "threading"}),
    "secondary": frozenset({"socket", "asyncio", "threading"}),
    "table": frozenset({"socket", "asyncio", "time", "dnslib"}),
    "guard": frozenset({"socket", "asyncio", "time", "dnslib"}),
    "snapshot": frozenset({"dnslib"}),
    "serverset": frozenset({"dnslib"}),
    "balance": frozenset({"dnslib"}),
}
# Libraries that only one package may import.
ONLY = {"kazoo": "serverset"}

# Modules shared by commands; every other module in cli/ is a command.
NO_COMMANDS = frozenset(
    {
        *(
            "cli.__init__",
            "cli.api_options",
            "cli.command",
            "cli.name_completion",
            "cli.options",
            "cli.output",
            "cli.service_argument",
            "cli.statuses",
            "cli.streams",
            "cli.usage_errors",
            "cli.values",
        ),
        *(
            "cli.serverset_options",
            "cli.lookup_words",
            "cli.table_copy",
            "cli.table_diff",
            "cli.top_rates",
            "cli.top_readings",
        ),
        *("cli.top_state", "cli.top_view", "cli.watch_output"),
    }
)

MAX_LINES = 700
MAX_FUNCTION = 60


def package_of(module: str) -> str:
    """The top-level package or module of a module: `dns` for `dns.message`."""
    return module.partition(".")[0]


def imports(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """Yield line and absolute name of each import in a module.

    Args:
        tree: the parsed module.
        module: its name below zkdns; that of a package ends in `.__init__`.
    """
    above = ["zkdns", *module.split(".")][:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = above[: len(above) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            if source == "zkdns":  # the imported name may be a package
                yield from ((node.lineno, f"zkdns.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, source
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "__import__",
            "import_module",
            "importlib.import_module",
        ):
            argument = node.args[0] if node.args else None
            if isinstance(argument, ast.JoinedStr) and ast.unparse(argument.values[0]) == "{__name__}":
                yield node.lineno, ".".join(above)  # a module of its own package
            else:
                yield node.lineno, str(argument.value) if isinstance(argument, ast.Constant) else "zkdns.?"


def import_errors(text: str, module: str) -> list[str]:
    """Imports of a module that break a rule."""
    package = package_of(module).replace("__init__", "")
    if package not in LAYER_OF:
        return [f"{module}: {package!r} is in no layer"]
    return [
        f"{module}:{line}: {error}"
        for line, name in imports(ast.parse(text), module)
        if (error := _import_error(package, name))
    ]


def _import_error(package: str, name: str) -> str | None:
    """Why the package must not import the name; None if it may."""
    root, _, below = name.partition(".")
    if root == "zkdns":
        return _layer_error(package, package_of(below), name)
    if root in NEVER.get(package, ()):
        return f"{package} must not import {root}"
    if ONLY.get(root, package) != package:
        return f"only {ONLY[root]} may import {root}"
    return None


def _layer_error(package: str, other: str, name: str) -> str | None:
    if other in ("", package, "__version__"):
        return None
    if other not in LAYER_OF:
        return f"imports {name}, which is in no layer"
    own_layer = LAYER_OF[package]
    if LAYER_OF[other] > own_layer or (other == "config" and own_layer == LAYER_OF["config"]):
        return f"{package} is in a layer before {other}, so it must not import {name}"
    return None


def length_errors(text: str, module: str) -> list[str]:
    """The file and the functions of a module that are too long."""
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


def module_name(path: Path) -> str:
    """The name of a file's module below zkdns; that of a package ends in `.__init__`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_imports_only_from_its_own_layer_and_the_layers_before_it(path: Path) -> None:
    assert import_errors(path.read_text(encoding="utf-8"), module_name(path)) == []


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_files_and_functions_are_not_too_long(path: Path) -> None:
    assert length_errors(path.read_text(encoding="utf-8"), module_name(path)) == []


def test_every_package_is_in_a_layer() -> None:
    packages = {package_of(module_name(path)).replace("__init__", "") for path in MODULES}
    assert packages <= LAYER_OF.keys()
    assert {"dns", "table", "serverset", "config", "errors"} <= packages


def imported_commands(text: str, module: str) -> list[str]:
    """The modules of other commands that a command imports."""
    if package_of(module) != "cli" or module == "cli.__init__":
        return []
    found = {
        f"cli.{name.split('.')[2]}"
        for _, name in imports(ast.parse(text), module)
        if name.startswith("zkdns.cli.")
    }
    return sorted(found - NO_COMMANDS - {module})


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=module_name)
def test_no_command_imports_another(path: Path) -> None:
    assert imported_commands(path.read_text(encoding="utf-8"), module_name(path)) == []


# -- the checks themselves ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("table", "import zkdns.dns.message"),
        ("table", "from zkdns.dns import message"),
        ("table", "from zkdns import dns"),
        ("table", "from . import dns"),
        ("table", "from .dns.message import Type"),
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
        ("admin.api", "from zkdns.daemon.ipc.request_messages import Explain"),
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
        ("unknown", ""),
        ("unknown.module", "import os"),
        ("dns.message", "from zkdns.unknown import module"),
    ],
)
def test_a_forbidden_import_is_found(module: str, text: str) -> None:
    assert len(import_errors(text, module)) == 1


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
        ("dns.__init__", "from . import message"),
        ("dns.responder", "from zkdns.table import Table\nimport dnslib"),
        (
            "daemon.watcher.watcher",
            "import asyncio, socket, time\nfrom zkdns.serverset.client import make_client",
        ),
        ("cli.__init__", "import zkdns\nfrom zkdns import __version__\nfrom zkdns.daemon import supervisor"),
        ("__main__", "from zkdns.cli import main"),
    ],
)
def test_an_allowed_import_is_accepted(module: str, text: str) -> None:
    assert import_errors(text, module) == []


@pytest.mark.parametrize("text", ["from zkdns.cli.register import FAILED", "from .register import FAILED"])
def test_a_command_that_imports_another_is_found(text: str) -> None:
    assert imported_commands(text, "cli.watch") == ["cli.register"]
    assert imported_commands(text, "cli.__init__") == []
    assert imported_commands(text.replace("register", "serverset_options"), "cli.watch") == []


def test_a_too_long_file_or_function_is_found() -> None:
    body = "    pass\n"
    assert length_errors(f"def f():\n{body * 59}", "dns.message") == []
    assert length_errors(f"def f():\n{body * 60}", "dns.message") == [
        "dns.message:1: f has 61 lines, at most 60"
    ]
    assert length_errors(f"class C:\n    async def f():\n{('    ' + body) * 60}", "x") != []
    assert length_errors("#\n" * 700, "dns.message") == []
    assert length_errors("#\n" * 701, "dns.message") == ["dns.message: 701 lines, at most 700"]
