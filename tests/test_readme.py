"""The documentation is correct: its commands, files, examples and links, in the README and in every page."""

import contextlib
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from click.testing import CliRunner

from tests.support.memcached import MemcachedServer, memcached_is_missing
from tests.support.process_guard import running_guarded
from tests.support.reference import commands, pages
from tests.support.server import ZkdnsServer
from tests.support.thrift import IDL, EchoServer
from tests.support.venvs import INSTALL_SECONDS, index_is_unreachable
from tests.support.waiting import PATIENCE, eventually
from tests.support.web import WebServer
from tests.support.zookeeper import ZooKeeperServer
from zkdns.admin.api import Api
from zkdns.admin.backend import Backend
from zkdns.admin.sse import Events
from zkdns.admin.timing import Timing
from zkdns.admin.token import Tokens
from zkdns.balance.ring import Ring
from zkdns.cli import main
from zkdns.cli.help import pages as topics
from zkdns.config import SETTINGS, load_config
from zkdns.serverset.auth import load_access
from zkdns.serverset.member import decode_member, encode_member
from zkdns.serverset.static_file import parse_static
from zkdns.telemetry.last_hour import LastHour

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "zkdns" / "docs"
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (
        *(ROOT / name for name in ("README.md", "systemd/README.md", "tests/README.md")),
        *sorted(DOCS.glob("*.md")),
    )
}
README = PAGES["README.md"]
LIBRARY = PAGES["zkdns/docs/library.md"]
CONFIGURATION = PAGES["zkdns/docs/configuration.md"]
DEMO_PORT = "5300"

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language, in the order of the page."""
    return [text for found, text in _BLOCK.findall(page) if found == language]


def pages_with(language: str) -> list[str]:
    return [name for name, page in PAGES.items() if blocks(page, language)]


# -- console examples ---------------------------------------------------------------------------------------


def console_examples(page: str) -> dict[str, list[tuple[str, list[str]]]]:
    """Commands behind `$ ` with the lines of output that follow, by the arguments of the server.

    The server is that of the last `zkdns serve --demo …` in an `sh` block above.
    """
    examples: dict[str, list[tuple[str, list[str]]]] = {}
    served = ""
    for language, block in _BLOCK.findall(page):
        if language == "sh":
            started = re.search(r"zkdns serve (--demo.*)", block)
            served = started[1] if started else served
        if language != "console":
            continue
        for line in block.splitlines():
            if line.startswith("$ "):
                examples.setdefault(served, []).append((line[2:], []))
            else:
                examples[served][-1][1].append(line)
    return examples


def comparable(lines: list[str]) -> list[str]:
    """Lines without the parts that differ from run to run: their order, the port, and the duration."""
    return sorted(re.sub(r"in [\d.]+ ms|127\.0\.0\.1:\d+", "", line).rstrip() for line in lines)


def run_example(server: ZkdnsServer, command: str) -> list[str]:
    """The lines that the command prints. One of zkdns alone runs in this process, which takes less time."""
    if command.startswith("zkdns ") and not set(command) & set("|&;<>$\"'"):
        words = command.replace(DEMO_PORT, str(server.port)).split()[1:]
        ended = CliRunner().invoke(main, words, prog_name="zkdns", env={"ZKDNS_ADMIN_SOCKET": server.api})
        assert ended.exit_code == 0, ended.stderr
        return ended.stdout.splitlines()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ZKDNS_ADMIN_SOCKET": server.api,
    }
    return subprocess.run(
        ["bash", "-c", command.replace(DEMO_PORT, str(server.port))],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    ).stdout.splitlines()


def test_there_are_examples() -> None:
    found = [console_examples(page) for page in PAGES.values()]
    assert sum(len(examples) for by_server in found for examples in by_server.values()) >= 10
    assert len({served for by_server in found for served in by_server}) == 2


def test_every_example_of_the_page_of_the_commands_is_run() -> None:
    page = PAGES["zkdns/docs/cli.md"]
    assert "zkdns serve --demo --dns-sd --reverse\n" in blocks(page, "sh")  # the server of the examples
    ((_, examples),) = console_examples(page).items()
    assert len(examples) == sum(block.count("$ ") for block in blocks(page, "console"))
    shown = {command.split()[1] for command, _ in examples}
    assert shown == {"check", "services", "lookup", "explain", "wait", "history", "accept", "status", "dump"}


Servers = Callable[[str], ZkdnsServer]


@pytest.fixture(scope="module")
def server_of() -> Iterator[Servers]:
    """Return a server with these arguments, which all examples share."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda served: stack.enter_context(ZkdnsServer(*served.split())).wait_ready())


@pytest.mark.parametrize("name", pages_with("console"))
def test_console_examples(name: str, server_of: Servers) -> None:
    has_dig = shutil.which("dig") is not None
    skipped = []
    for served, examples in console_examples(PAGES[name]).items():
        server = server_of(served)
        for command, output in examples:
            if command.startswith("dig ") and not has_dig:
                skipped.append(command)
                continue
            assert comparable(run_example(server, command)) == comparable(output), f"$ {command}"
    if skipped:
        pytest.skip(f"there is no dig here for {len(skipped)} of the examples; the others pass")


# -- commands -----------------------------------------------------------------------------------------------


def typed_commands(page: str) -> list[list[str]]:
    """The words of each `zkdns …` command in `sh` and `console` blocks, up to a shell operator or `--`."""
    lines = [
        line.removeprefix("$ ")
        for language in ("sh", "console")
        for block in blocks(page, language)
        for line in block.splitlines()
        if language == "sh" or line.startswith("$ ")
    ]
    found = []
    for line in lines:
        parser = shlex.shlex(line, posix=True, punctuation_chars=True)
        parser.whitespace_split = True
        words: list[str] = []
        for word in [*parser, "&&"]:
            if set(word) <= set("|&;<>()"):
                if words and re.fullmatch(r"(.*/bin/)?zkdns", words[0]):
                    found.append(words[1:])
                words = []
            else:
                words = [*words[1:], word] if words[:1] == ["sudo"] else [*words, word]
    return found


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if typed_commands(page)])
def test_typed_commands_and_their_options_exist(name: str) -> None:
    unknown = []
    for command, *words in typed_commands(PAGES[name]):
        options = {
            option
            for parameter in commands()[command].params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        own = words[: words.index("--")] if "--" in words else words
        unknown += [
            f"{command} {word}" for word in own if word.startswith("-") and word.split("=")[0] not in options
        ]
    assert unknown == []


def test_the_http_page_has_every_path() -> None:
    api = Api(*cast("tuple[Backend, Events, LastHour, Tokens, Timing]", (None,) * 5))
    page = PAGES["zkdns/docs/http-api.md"]
    written = set(re.findall(r"^\| (POST )?`(/[a-z/.-]*)", page, re.MULTILINE))
    served = {("POST " if route.method == "POST" else "", route.path) for route in api.routes()}
    assert written == served | {("", path) for path in ("/", "/healthz", "/readyz", "/metrics")}


def test_every_command_is_described() -> None:
    written = "".join(page for name, page in PAGES.items() if Path(name).name not in pages())
    assert [name for name in commands() if f"zkdns {name}" not in written] == []


# -- files --------------------------------------------------------------------------------------------------


def load_configuration(text: str, directory: Path) -> None:
    (directory / "zkdns.toml").write_text(text, encoding="utf-8")
    load_config(flags={}, environment={}, file=str(directory / "zkdns.toml"))


def load_services(text: str, _directory: Path) -> None:
    namespaces = load_config(flags={}, environment={}, file=None).namespaces
    assert parse_static(text, namespaces, origin="services.toml")


def load_credentials(text: str, directory: Path) -> None:
    file = directory / "zookeeper.toml"
    file.write_text(text, encoding="utf-8")
    file.chmod(0o600)
    environment = {"ZKDNS_ZOOKEEPER": "127.0.0.1", "ZKDNS_ZOOKEEPER_CREDENTIALS": str(file)}
    access = load_access(load_config(flags={}, environment=environment, file=None).zookeeper)
    assert access.digests
    assert access.sasl


LOADERS: dict[str, Callable[[str, Path], None]] = {
    "zkdns.toml": load_configuration,
    "services.toml": load_services,
    "zookeeper.toml": load_credentials,
}
"""How the file in the first line of a `toml` block is loaded."""


@pytest.mark.parametrize("name", pages_with("toml"))
def test_toml_files_are_accepted(name: str, tmp_path: Path) -> None:
    for block in blocks(PAGES[name], "toml"):
        file = block.partition("\n")[0].removeprefix("# ")
        LOADERS[file](block, tmp_path)


def differing(written: msgspec.Struct, default: msgspec.Struct, place: str = "") -> set[str]:
    """The fields with different values, those of nested structs as `section.key`."""
    found: set[str] = set()
    for field in written.__struct_fields__:
        ours, theirs = getattr(written, field), getattr(default, field)
        if isinstance(ours, msgspec.Struct) and isinstance(theirs, msgspec.Struct):
            found |= differing(ours, theirs, f"{place}{field}.")
        elif ours != theirs:
            found.add(f"{place}{field}")
    return found


def test_the_configuration_page_has_the_defaults(tmp_path: Path) -> None:
    block = blocks(CONFIGURATION, "toml")[0]
    (tmp_path / "zkdns.toml").write_text(block, encoding="utf-8")
    written = load_config(flags={}, environment={}, file=str(tmp_path / "zkdns.toml"))
    hosts = tomllib.loads(block)["zookeeper"]["hosts"]
    default = load_config(flags={}, environment={"ZKDNS_ZOOKEEPER": hosts}, file=None)
    assert differing(written, default) == {"service", "forward.zones"}


def test_the_configuration_page_has_all_settings(tmp_path: Path) -> None:
    block = re.sub(r"^# (?=[a-z_]+ = )", "", blocks(CONFIGURATION, "toml")[0], flags=re.MULTILINE)
    load_configuration(block, tmp_path)
    document = tomllib.loads(block)
    absent = [row.key for row in SETTINGS if not stands_in(document, row.key)]
    of_secondaries = [key for key in absent if key.startswith("primary.")]
    assert [key for key in absent if key not in of_secondaries] == ["demo", "offline"]
    secondaries = [tomllib.loads(one) for one in blocks(PAGES["zkdns/docs/secondary.md"], "toml")]
    assert all(any(stands_in(one, key) for one in secondaries) for key in of_secondaries)


def stands_in(document: dict[str, Any], key: str) -> bool:
    """Whether a TOML document has a setting."""
    section, _, name = key.rpartition(".")
    return name in (document.get(section, {}) if section else document)


@pytest.mark.parametrize("name", pages_with("json"))
def test_json_members_are_read_and_written(name: str) -> None:
    for data in blocks(PAGES[name], "json"):
        member = decode_member("member_0000000318", data.encode())
        assert encode_member(member) == data.strip().encode()


# -- links --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_relative_links_lead_to_files(name: str) -> None:
    directory = (ROOT / name).parent
    links = {link for link in _LINK.findall(_BLOCK.sub("", PAGES[name])) if "://" not in link}
    missing = {link for link in links if not (directory / link).exists()}
    assert missing == set()
    if directory == DOCS:
        assert {link for link in links if "/" in link} == set(), "the wheel has only the pages in zkdns/docs"


def test_the_readme_is_short_and_links_to_every_page() -> None:
    assert len(README.splitlines()) <= 200
    linked = {Path(link).name for link in _LINK.findall(README)}
    assert {page.name for page in topics().values()} <= linked
    assert "LICENSE" in linked


# -- the first command --------------------------------------------------------------------------------------


def test_the_first_command_serves_the_example_from_a_fresh_copy() -> None:
    """In an empty environment, with only the project's files, at other ports; the package has its pages."""
    command = blocks(README, "sh")[0].strip()
    assert command.endswith("zkdns serve --demo")
    directory = Path(tempfile.mkdtemp(prefix="zkdns-readme-"))
    for name in ("pyproject.toml", "README.md", "systemd", "zkdns"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, directory / name)
    environment = {
        **{name: value for name, value in os.environ.items() if name.startswith("PIP_") or name == "HOME"},
        "PATH": os.pathsep.join([str(Path(sys.base_prefix) / "bin"), "/usr/local/bin", "/usr/bin", "/bin"]),
        "ZKDNS_LISTEN": "127.0.0.1:0",
        "ZKDNS_ADMIN": "none",
        "ZKDNS_ADMIN_SOCKET": "none",
    }
    output = directory / "output"
    try:
        with (
            output.open("wb") as out,
            running_guarded(
                ["bash", "-c", command],
                remove=str(directory),
                cwd=directory,
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            eventually(
                lambda: output.read_text().endswith("\nready\n") or process.poll() is not None,
                INSTALL_SECONDS,
            )
            if process.poll() is not None and index_is_unreachable(output.read_text()):
                pytest.skip("the package index cannot be reached")
            line = next(line for line in output.read_text().splitlines() if line.startswith("  zkdns "))
            assert re.fullmatch(r"  zkdns lookup web\.staging\.discovery --dns 127\.0\.0\.1:\d+\b.*", line)
            shown = subprocess.run(
                [".venv/bin/zkdns", "help", "library"],
                check=True,
                capture_output=True,
                text=True,
                cwd=directory,
                env=environment,
                timeout=PATIENCE,
            ).stdout
            assert shown.strip() == LIBRARY.strip()
            (packages,) = directory.glob(".venv/lib/*/site-packages")
            installed = {page.name: page.read_text(encoding="utf-8") for page in topics().values()}
            assert {
                name: (packages / "zkdns/docs" / name).read_text(encoding="utf-8") for name in installed
            } == installed
            (metadata,) = packages.glob("zkdns-*.dist-info")
            assert "License-Expression: MIT" in (metadata / "METADATA").read_text(encoding="utf-8")
            licence = metadata / "licenses" / "zkdns" / "docs" / "LICENSE"
            assert licence.read_bytes() == (DOCS / "LICENSE").read_bytes()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


# -- Python -------------------------------------------------------------------------------------------------


def run_python(program: str, directory: Path) -> list[str]:
    """The lines that it prints."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout.splitlines()


def test_python_of_the_readme(zookeeper: ZooKeeperServer, tmp_path: Path) -> None:
    (block,) = blocks(README, "python")
    path, endpoints = run_python(block.replace("zk01:2181,zk02:2181,zk03:2181", zookeeper.address), tmp_path)
    assert re.fullmatch(r"/discovery/prod/web/member_\d{10}", path)
    assert endpoints == "('10.0.0.1:8080',)"


def test_python_of_the_library_page(zookeeper: ZooKeeperServer, tmp_path: Path) -> None:
    program = "".join(blocks(LIBRARY, "python")[:2]).replace(
        "zk01:2181,zk02:2181,zk03:2181", zookeeper.address
    )
    path, endpoints = run_python(program, tmp_path)
    assert re.fullmatch(r"/discovery/prod/web/member_\d{10}", path)
    assert endpoints == "()"  # the registration is closed by then


def test_asyncio_of_the_library_page(zookeeper: ZooKeeperServer, tmp_path: Path) -> None:
    program = blocks(LIBRARY, "python")[2].replace("zk01:2181,zk02:2181,zk03:2181", zookeeper.address)
    assert run_python(program, tmp_path) == ["('10.0.0.1:8080',)"]


@pytest.mark.skipif(bool(memcached_is_missing()), reason=memcached_is_missing())
def test_balancers_of_the_library_page(tmp_path: Path) -> None:
    program = "".join(blocks(LIBRARY, "python")[3:6])
    assert f'caches.pick("user:7"))  # {Ring(["10.0.0.1:11211", "10.0.0.2:11211"]).pick("user:7")}' in program
    (tmp_path / "echo.thrift").write_text(IDL)
    with contextlib.ExitStack() as stack:
        webs = [stack.enter_context(WebServer()) for _ in range(2)]
        caches = [stack.enter_context(MemcachedServer()) for _ in range(2)]
        echoes = [stack.enter_context(EchoServer()) for _ in range(2)]
        endpoints = {
            8080: [web.endpoint for web in webs],
            11211: [cache.endpoint for cache in caches],
            9090: [echo.endpoint for echo in echoes],
        }
        for port, started in endpoints.items():
            for number, endpoint in enumerate(started, 1):
                program = program.replace(f'"10.0.0.{number}:{port}"', f'"{endpoint}"')
        two_hundred, again, picked, name, echoed = run_python(program, tmp_path)
    assert (two_hundred, again) == ("200", "200")
    assert [asked.host for web in webs for asked in web.requests] == ["web", "web"]
    assert picked in endpoints[11211]
    assert (name, echoed) == ("b'Ada'", "hello")
