"""Foreign text in the output of commands: no control characters and no forged lines, also in terminals."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import pty
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import dns.edns
import dns.flags
import dns.message
import dns.rrset
import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import ConsoleDimensions

import zkdns.cli
from tests.cli import Terminal, run
from tests.cli.test_top_rates import reading, worker
from tests.support.fake_api import FakeApi
from tests.support.waiting import eventually
from zkdns.admin.api_types import (
    ExplainedMember,
    Explanation,
    Failure,
    HistoryEntry,
    HistoryPage,
    LossesAccepted,
    MemberCount,
    Names,
    ReleasedMember,
    Reloaded,
    Session,
    TypeAnswer,
)
from zkdns.admin.status import NamespaceStatus, Status, TableStatus, ZooKeeperStatus
from zkdns.cli import main
from zkdns.cli.name_completion import complete_names
from zkdns.cli.output import StyledLines, make_console, write_columns
from zkdns.cli.streams import write_error, write_fields, write_json, write_lines
from zkdns.cli.top_rates import ServiceRates, rates_between
from zkdns.cli.top_state import VIEWS, TopState, View
from zkdns.cli.top_view import live_view, whole_view
from zkdns.cli.watch_output import Change, Row, make_output
from zkdns.config import load_config
from zkdns.escape import printable, printable_json, word
from zkdns.telemetry.stats import UpstreamStatus, ZoneDigest
from zkdns.telemetry.traffic import TopReport, TopRow

# Without the letters with which the styles and live displays of rich end their sequences.
_ALPHABET = "ab{}[]/=,'\"\\ \t\n\r\v\f\0\x07\x08\x1b\x1c\x7f\x85\x9b\x9d;2J"
_ALPHABET += "\u200b\u200e\u202a\u202e\u2028\u2029\u2066\u2069\ufeff\U000e0001\xa0\u3000é中"
hostile = st.text(alphabet=_ALPHABET, min_size=1, max_size=12)
SAMPLE = "a\x1b[2J\x1b]0;t\x07\x9b2J\x7f\u202eb\u2028c\x85\r\nforged\t[/b]"
few = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
_STYLES = re.compile(r"\x1b\[(?:[0-9;]*m|[0-9]*[AH]|2K|\?25[lh])|\r")
KINDS = ("pipe", "terminal")
kind = pytest.mark.parametrize("kind", KINDS)


def printed(act: Callable[[], object], kind: str) -> str:
    """What a function prints into a pipe or a terminal, without the sequences for styles."""
    return in_pipe(act) if kind == "pipe" else in_terminal(act)


def in_pipe(act: Callable[[], object]) -> str:
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    errors = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), contextlib.suppress(SystemExit):
        act()
    out.flush()
    buffer = out.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode() + errors.getvalue()


def in_terminal(act: Callable[[], object]) -> str:
    master, slave = pty.openpty()
    chunks: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the terminal is closed
            while chunk := os.read(master, 65536):
                chunks.append(chunk)

    thread = threading.Thread(target=read)
    thread.start()
    before = {name: os.environ.get(name) for name in ("TERM", "COLUMNS", "NO_COLOR")}
    os.environ |= {"TERM": "xterm", "COLUMNS": "4000"}
    os.environ.pop("NO_COLOR", None)
    try:
        with (
            os.fdopen(slave, "w", encoding="utf-8") as out,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(out),
            contextlib.suppress(SystemExit),
        ):
            act()
            out.flush()
    finally:
        thread.join()
        os.close(master)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    return _STYLES.sub("", b"".join(chunks).decode())


def assert_harmless(text: str, plain: str | None = None) -> None:
    """No character of the text is a control character, and it has no more lines than that of plain words."""
    lines = text.split("\n")
    assert [line for line in lines if not line.replace("\t", "").isprintable()] == []
    if plain is not None:
        assert len(lines) == len(plain.split("\n")), text


# -- the functions that write -------------------------------------------------------------------------------


@given(st.text())
def test_an_escaped_text_is_one_printable_line(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)
    assert word(text).isprintable()
    assert " " not in word(text)
    encoded = msgspec.json.encode(text.encode(errors="replace").decode()).decode()
    assert printable_json(encoded).isprintable()
    assert json.loads(printable_json(encoded)) == json.loads(encoded)


def write_with_all(text: str) -> None:
    write_lines(text)
    write_fields([(text, text)])
    write_json({"key": text})
    write_error(text)
    StyledLines().write(text, (text, "red"), style="bold")
    write_columns(["one", "two"], [[text, "x"], ["x", text]], {text: "green"})


@kind
@given(text=hostile)
@few
def test_all_functions_escape(kind: str, text: str) -> None:
    plain = printed(lambda: write_with_all("plain"), kind)
    assert_harmless(printed(lambda: write_with_all(text), kind), plain)


# Calls and imports with which a command could write text that is not escaped.
_WRITERS = {"click.echo", "click.secho", "print", "sys.stdout.write", "sys.stderr.write", "Text", "Console"}
_MAY_WRITE = {"streams", "output", "help"}  # help renders the documentation of zkdns
_COMMANDS = Path(zkdns.cli.__file__).parent


@pytest.mark.parametrize("path", sorted(_COMMANDS.glob("*.py")), ids=lambda path: path.stem)
def test_commands_write_only_with_functions_that_escape(path: Path) -> None:
    if path.stem in _MAY_WRITE:
        return
    calls = {
        ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    }
    assert calls & _WRITERS == set(), "use zkdns.cli.streams or zkdns.cli.output"


# -- commands that query a server ---------------------------------------------------------------------------


@pytest.fixture
def server(short_path: Path) -> Iterator[FakeApi]:
    with FakeApi(str(short_path / "api")).serving() as running:
        yield running


def explanation(text: str) -> Explanation:
    member = ExplainedMember(
        member=text,
        znode=text,
        name=text,
        verdict="answered",
        why=text,
        endpoint=text,
        additional={text: text},
        addresses=(text,),
        session=Session(text, 1.0, 9.0),
    )
    return Explanation(
        asked=text,
        name=text,
        kind="service",
        rule=text,
        notes=(text,),
        nearest=(text,),
        answers=(TypeAnswer(text, text, 1),),
        is_answered=True,
        origins=(f"/{text}", f"/2{text}"),
        members=(member,),
        ttl=1,
        order=text,
        state=text,
        problem=text,
        ready=True,
        stale=False,
        now=10.0,
    )


def status_of(text: str) -> Status:
    digests = (ZoneDigest(text, 1, text),)
    namespace = NamespaceStatus(text, text, 1.0, 0, 0, text, text)
    return Status(
        version=text,
        ready=True,
        zones=(text,),
        namespaces=(),
        listening=(text,),
        source="zookeeper",
        zookeeper=ZooKeeperStatus(text, text, 1.0, text, (namespace,)),
        table=TableStatus(1, 1, 0, 0, 0, digests),
        workers=(),
        upstreams=(UpstreamStatus(text, text, True, None),),
        restarts={text: 1},
        started=1.0,
        now=2.0,
    )


def responses_of(text: str) -> dict[str, tuple[int, object]]:
    entry = HistoryEntry(1, 1.0, text, text, "joined", text, text)
    return {
        "status": (200, status_of(text)),
        "explain": (200, explanation(text)),
        "history": (200, HistoryPage((entry,), 1)),
        "accept": (200, LossesAccepted((ReleasedMember(text, f"/{text}", text, 1.0),))),
        "count": (200, MemberCount(1, 0, exists=False, ready=True, problem=text)),
        "flush": (404, Failure(text)),
        "reload": (200, Reloaded((text,), (text,), 1.0)),
        "members": (200, msgspec.json.encode({"service": text}) + b"\n"),
    }


QUERYING = (
    "status",
    "explain web",
    "history",
    "accept --all",
    "wait web --timeout 0s",
    "flush",
    "reload",
    "dump --json",
)
WITH_JSON = tuple(f"{typed} --json" for typed in QUERYING if not typed.startswith(("wait", "dump")))


@kind
@pytest.mark.parametrize("typed", [*QUERYING, *WITH_JSON])
@given(text=hostile)
@few
def test_a_response_of_a_server_is_escaped(typed: str, kind: str, server: FakeApi, text: str) -> None:
    if kind == "terminal" and typed.startswith("wait"):
        return  # its live display is in another test
    arguments = [*typed.split(), "--server", server.socket]
    server.responses = responses_of("plain")
    plain = printed(lambda: main(arguments), kind)
    server.responses = responses_of(text)
    assert_harmless(printed(lambda: main(arguments), kind), plain)


@given(text=hostile)
@few
def test_errors_of_a_server_are_escaped(server: FakeApi, text: str) -> None:
    for status in (400, 401, 404):
        server.responses = dict.fromkeys(responses_of(text), (status, Failure(text)))
        server.responses["reload"] = (409, Failure(text, (text,)))
        for typed in QUERYING:
            shown = printed(lambda typed=typed: main([*typed.split(), "--server", server.socket]), "pipe")  # type: ignore[misc]
            assert shown.startswith("zkdns: ")
            assert_harmless(shown, "one\ntwo\n" if typed == "reload" else "one\n")


@given(text=hostile)
@few
def test_names_that_a_shell_would_misread_are_not_completed(server: FakeApi, text: str) -> None:
    server.responses = {"names": (200, Names((text, "web.staging")))}
    context = click.Context(main, info_name="zkdns")
    context.params = {"server": server.socket}
    found = [item.value for item in complete_names(context, main.params[0], "")]
    assert found == [name for name in (text, "web.staging") if name.isprintable()]


def test_a_service_with_markup_is_shown_as_it_is_in_a_terminal(server: FakeApi) -> None:
    server.responses = {"count": (200, MemberCount(0, 0, exists=False, ready=True, problem=SAMPLE))}
    with Terminal("wait", "[/b]a", "--timeout", "500ms", "--server", server.socket) as terminal:
        assert terminal.wait() == 1
        assert "[/b]a: there is no such service (a\\x1b[2J" in terminal.screen
        assert "Traceback" not in terminal.screen
        assert "\x1b[2J" not in terminal.written


# -- DNS ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def dns_server(texts: list[str]) -> Iterator[str]:
    """A DNS server with responses that contain the first of these texts, in records and as extended error."""

    def respond(wire: bytes) -> bytes:
        query = dns.message.from_wire(wire)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA
        data = texts[0].encode()
        name = dns.name.Name((data[:60], b"test", b""))
        response.answer = [
            dns.rrset.from_rdata(
                name, 5, dns.rdata.from_wire("IN", "TXT", bytes([len(data)]) + data, 0, len(data) + 1)
            )
        ]
        error = dns.edns.EDEOption(dns.edns.EDECode.NOT_READY, texts[0])
        response.use_edns(0, options=[error])
        return response.to_wire()

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    wire, client = server.recvfrom(65535)
                    if not wire:
                        return
                    server.sendto(respond(wire), client)

        thread = threading.Thread(target=serve)
        thread.start()
        address = server.getsockname()
        try:
            yield f"{address[0]}:{address[1]}"
        finally:
            server.sendto(b"", address)
            thread.join()


@kind
@pytest.mark.parametrize("more", [[], ["--json"]], ids=["text", "json"])
def test_the_texts_of_an_upstream_are_escaped(kind: str, more: list[str]) -> None:
    texts = ["plain"]

    @given(text=hostile)
    @few
    def check(text: str) -> None:
        arguments = ["lookup", "a.test", "TXT", "--dns", server, *more]
        texts[0] = "plain"
        plain = printed(lambda: main(arguments), kind)
        texts[0] = text
        shown = printed(lambda: main(arguments), kind)
        assert_harmless(shown, plain)
        if more:
            assert json.loads(shown)["errors"] == [f"14: {text}"]

    with dns_server(texts) as server:
        check()


# -- the command line and files -----------------------------------------------------------------------------


@given(text=hostile)
@few
def test_parts_of_the_command_line_are_escaped_in_errors(text: str) -> None:
    for arguments in (
        [text],
        ["check", f"--{text}"],
        [
            "check",
            "--ttl",
            text,
            "--listen",
            text,
            "--zone",
            text,
            "--zookeeper",
            f":{text}",
            "--log-level",
            text,
        ],
        ["check", "--demo", text],
        ["lookup", text, text, "--dns", f":{text}"],
        ["lookup", "a", "--server", f"http://{text}"],
        ["lookup", "a", "--timeout", text],
        ["history", "--since", text, "--last", text],
        ["completion", text],
        ["help", text],
        ["services", "--environment", f"/{text}", "--zookeeper", f":{text}"],
        ["services", "--direct", "--environment", f"/{text}", "--zookeeper", f":{text}"],
        ["watch", f"/{text}", "--environment", text, "--zookeeper", f":{text}"],
        ["register", f"/{text}", "--port", text, "--endpoint", text, "--metadata", text, "--check", text],
        ["setup", "--root", text],
        ["doctor", "--ttl", text, "--config", text],
        ["explain", "a", "--server", text],
    ):
        for own in (arguments, [*arguments, "--json"]):
            result = CliRunner().invoke(main, own)
            assert result.exception is None or isinstance(result.exception, SystemExit), own
            assert_harmless(result.output)


@given(texts=st.lists(hostile, min_size=1, max_size=3, unique=True))
@few
def test_values_of_files_are_escaped_in_errors(tmp_path: Path, texts: list[str]) -> None:
    config, static = tmp_path / "zkdns.toml", tmp_path / "services.toml"
    for text in texts:
        quoted = printable_json(json.dumps(text))
        config.write_text(f"ttl = {quoted}\nlisten = [{quoted}]\n{quoted} = 1\nzone = {quoted}\n")
        static.write_text(f"[services.{quoted}]\nmembers = [{quoted}, {{ host = {quoted}, port = 1 }}]\n")
        for arguments in (
            ["check", "--config", str(config)],
            ["check", "--config", str(config), "--json"],
            ["doctor", "--config", str(config)],
            ["check", "--static", str(static)],
            ["dump", "--zone", "--static", str(static)],
        ):
            result = CliRunner().invoke(main, arguments)
            assert result.exception is None or isinstance(result.exception, SystemExit)
            assert_harmless(result.output)


def test_a_zone_file_of_hostile_endpoints_is_printable(tmp_path: Path) -> None:
    static = tmp_path / "services.toml"
    name = printable_json(json.dumps(SAMPLE))
    static.write_text(
        f'[services."web.staging"]\nmembers = [{{ host = "10.0.0.1", port = 1, additional = '
        f'{{ {name} = "10.0.0.2:2", "a..b" = "10.0.0.2:3" }} }}]\n'
    )
    ended = run("dump", "--zone", "--static", str(static))
    assert ended.status == 0, ended.errors
    assert_harmless(ended.output)
    lines = ended.output.split("\n")[:-1]
    assert [line for line in lines if not line.startswith("; ") and line.count("\t") != 4] == []


# -- displays -----------------------------------------------------------------------------------------------


def change(text: str) -> Change:
    return Change(
        time="2026-01-01T00:00:00.000Z",
        environment=text,
        service=text,
        endpoints=(text,),
        added=(Row(text, None, {text: text}, 1, {text: text}), Row(f"2{text}", text, {}, None, {})),
        removed=(),
    )


@kind
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@given(text=hostile)
@few
def test_members_of_a_watch_are_escaped(kind: str, as_json: bool, text: str) -> None:
    config = load_config(flags={}, environment={}, file=None)

    def show(text: str) -> None:
        with make_output(text, config, as_json=as_json) as output:
            output.write_change(change(text))
            if (print_line := output.print_line) is not None:
                print_line(text)

    shown = printed(lambda: show(text), kind)
    assert_harmless(shown)
    if kind == "pipe":
        lines = shown.split("\n")[:-1]
        assert len(lines) == (1 if as_json else 2)
        if not as_json:
            assert [line.count(" ") for line in lines] == [3, 3]


@kind
@pytest.mark.parametrize("view", VIEWS)
@given(text=hostile)
@few
def test_stats_of_a_server_are_escaped(kind: str, view: View, text: str) -> None:
    def show(text: str) -> None:
        zookeeper = ZooKeeperStatus(hosts=text, state=text, stale_seconds=1.0, problem=text)
        rates = rates_between(
            reading(10.0, worker(1, 0, text), zookeeper=zookeeper),
            reading(12.0, worker(1, 5, text), zookeeper=zookeeper),
        )
        rates = msgspec.structs.replace(
            rates,
            version=text,
            types={text: 1.0},
            sources={text: 1.0},
            rcodes={text: 1.0},
            services_by_rate=(ServiceRates(text, 1.0, 1, 1),),
            top=TopReport((TopRow(text, 1.0, 0.5),), (TopRow(text, 1.0, 0.0),)),
        )
        state = TopState(view)
        make_console().print(whole_view(rates, text, state))
        state.words = text
        console = make_console()
        console.size = ConsoleDimensions(80, 24)
        console.print(live_view(rates, text, state, console))

    assert_harmless(printed(lambda: show(text), kind))


# -- ZooKeeper ----------------------------------------------------------------------------------------------

ODD_ZNODE = "web\u202eevil\u2028forged\u200b"  # ZooKeeper itself refuses control characters in names


@pytest.mark.processes
def test_names_and_data_of_zookeeper_are_escaped(environment: dict[str, str], zk: Any, zk_root: str) -> None:
    endpoint = {"host": "10.0.0.1", "port": 80}
    data = {"serviceEndpoint": {"port": 0}, "additionalEndpoints": {SAMPLE: endpoint}, "status": "ALIVE"}
    for service in ("web", ODD_ZNODE):
        member = f"{zk_root}/staging/{service}/member_"
        zk.create(member, json.dumps(data).encode(), sequence=True, makepath=True)
        zk.create(f"{zk_root}/staging/{service}/{ODD_ZNODE}", b"")
    zk.create(f"{zk_root}/staging/other{ODD_ZNODE}/{ODD_ZNODE}", b"", makepath=True)
    for typed in (["services", "--direct"], ["services", "--direct", "--json"]):
        ended = run(*typed, environment=environment)
        assert_harmless(ended.output + ended.errors)
        assert len(ended.output.split("\n")) == 4
    with Terminal("services", "--direct", environment=environment) as terminal:
        assert terminal.wait() == 0
        assert_harmless(_STYLES.sub("", terminal.written))
    with Terminal("watch", "web", "--environment", "staging", environment=environment) as terminal:
        eventually(lambda: "forged" in terminal.screen)
        assert_harmless(_STYLES.sub("", terminal.written))
        terminal.process.send_signal(signal.SIGTERM)
        terminal.wait()


def test_the_interpreter_is_not_changed_by_a_command() -> None:
    """A command restores the standard streams."""
    before = sys.stdout, sys.stderr
    CliRunner().invoke(main, ["check", "--demo"])
    assert (sys.stdout, sys.stderr) == before
