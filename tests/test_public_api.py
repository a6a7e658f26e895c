"""The public names of the package: they exist, are typed and documented, and are loaded on first use only."""

import ast
import inspect
import subprocess
import sys
from importlib import import_module, resources
from pathlib import Path

import pytest

import zkdns

# A user's program, which mypy checks. `reveal_type` must find the types in REVEALED.
PROGRAM = """\
import asyncio
from collections.abc import Iterator

from zkdns import PRODUCTION, BadValueError, Endpoint, EndpointSource, FixedSet, Member, Registration
from zkdns import ServerSet, Status, UnreachableError, Watch, ZkdnsError, ZooKeeperError

web = ServerSet(PRODUCTION, "web", "zk01:2181", session_timeout=5.0)
listed = ServerSet(PRODUCTION, "web", ["zk01:2181"], namespace=lambda environment, service: "/" + service)
reveal_type(listed.hosts)


def follow(source: EndpointSource) -> None:
    source.subscribe(lambda: print(source.endpoints))


def register() -> None:
    with web.register("10.0.0.1", 8080, ping=lambda: True, additional={"admin": 9990}) as registration:
        reveal_type(registration)
        reveal_type(registration.path)
        reveal_type(registration.last_error)
        reveal_type(registration.subscribe(lambda: print(registration.path)))
        reveal_type(registration.wait_closed(1.0))


def watch() -> Iterator[str]:
    with web.watch(timeout=None) as watch:
        follow(watch)
        for endpoints in watch:
            reveal_type(endpoints)
            yield from endpoints
        reveal_type(watch.members[0].service)
        reveal_type(watch.last_event)


async def both() -> None:
    async with await web.register_async("10.0.0.1", 8080) as registration:
        reveal_type(registration)
    async with await web.watch_async() as watch:
        reveal_type(await watch.wait_async(1.0))
        async for endpoints in watch:
            reveal_type(endpoints)


follow(FixedSet(["a:1"]))
asyncio.run(both())
web.register("a", "80")
web.register("a", 80, 443)
"""

REVEALED = [
    'note: Revealed type is "tuple[str, ...]"',
    'note: Revealed type is "zkdns.serverset.registration.Registration"',
    'note: Revealed type is "str | None"',
    'note: Revealed type is "zkdns.errors.ZkdnsError | None"',
    'note: Revealed type is "def ()"',
    'note: Revealed type is "bool"',
    'note: Revealed type is "tuple[str, ...]"',
    'note: Revealed type is "zkdns.serverset.member.Endpoint | None"',
    'note: Revealed type is "float | None"',
    'note: Revealed type is "zkdns.serverset.registration.Registration"',
    'note: Revealed type is "bool"',
    'note: Revealed type is "tuple[str, ...]"',
]


def run(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=30
    ).stdout.strip()


@pytest.mark.parametrize("name", zkdns.__all__)
def test_each_public_name_exists(name: str) -> None:
    assert getattr(zkdns, name) is not None
    assert name in dir(zkdns)


def test_the_names_for_type_checkers_are_those_of_the_package() -> None:
    """The imports under TYPE_CHECKING, `__all__` and the objects at run time agree."""
    tree = ast.parse(Path(zkdns.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert sorted(alias.name for node in imports for alias in node.names) == sorted(zkdns.__all__)
    for node in imports:
        for alias in node.names:
            assert getattr(zkdns, alias.name) is getattr(import_module(str(node.module)), alias.name)


@pytest.mark.parametrize(
    "name", [name for name in zkdns.__all__ if inspect.isclass(getattr(zkdns, name)) and name != "Status"]
)
def test_each_public_class_shows_an_example(name: str) -> None:
    """An indented block in the docstring, or for short ones code in the sentence."""
    text = (
        inspect.getdoc(getattr(zkdns, name)) or ""
    )  # without the indentation, which Python 3.13 drops itself
    assert "\n\n    " in text or "`" in text


def test_help_shows_the_public_classes() -> None:
    shown = run("import pydoc, zkdns; print(pydoc.plain(pydoc.render_doc(zkdns)))")
    for name in ("Access", "FixedSet", "Registration", "ServerSet", "Watch"):
        assert f"class {name}(" in shown or f"class {name}\n" in shown or f" {name} = class" in shown


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'zkdns' has no attribute 'Nothing'"):
        _ = zkdns.Nothing


def test_importing_the_package_does_not_load_kazoo() -> None:
    loaded = "print([each for each in ('kazoo', 'msgspec', 'structlog', 'asyncio') if each in sys.modules])"
    others = "from zkdns import EndpointSource, FixedSet, Member, Watch, ZkdnsError"
    program = f"import sys, zkdns\n{loaded}\n{others}\n{loaded}\nfrom zkdns import ServerSet\n{loaded}"
    first, second, third = run(program).splitlines()
    assert first == "[]"
    assert "kazoo" not in second
    assert "kazoo" in third


def test_importing_all_names_prints_nothing() -> None:
    assert run("import zkdns; from zkdns import *; print(sorted(set(zkdns.__all__) - set(dir())))") == "[]"


def test_the_package_is_marked_as_typed() -> None:
    assert resources.files("zkdns").joinpath("py.typed").is_file()


def test_a_strictly_checked_program_finds_the_types(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is in the extra lint")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports", "--no-error-summary",
         "--hide-error-context", "--cache-dir", str(tmp_path / "cache"), str(program)],
        check=False, capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    lines = [line.split(": ", 1)[1] for line in found.stdout.splitlines()]
    assert found.stderr == ""
    assert [line.replace("builtins.", "") for line in lines if "Revealed" in line] == REVEALED
    errors = [line.split(";")[0].split("  [")[0] for line in lines if line.startswith("error: ")]
    assert errors == [
        'error: Argument 2 to "register" of "ServerSet" has incompatible type "str"',
        'error: Too many positional arguments for "register" of "ServerSet"',
        'error: Argument 3 to "register" of "ServerSet" has incompatible type "int"',
    ]
