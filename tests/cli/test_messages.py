"""The messages and exit statuses of mistakes: the thing, its place, the cause and the accepted values.

One table for all commands and settings. A row is a command line, its exit status and its whole message, in
which `…` stands for any text. The commands run in this process, except in the last test.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.cli import run
from tests.support.fake_api import FakeApi
from tests.support.loopback import free_port
from zkdns.cli import main
from zkdns.cli.statuses import ExitStatus
from zkdns.config import SETTINGS

pytestmark = pytest.mark.processes

USAGE, NO_RESPONSE, FAILED, NEGATIVE = (
    ExitStatus.USAGE,
    ExitStatus.NO_RESPONSE,
    ExitStatus.FAILED,
    ExitStatus.NEGATIVE,
)

# Options and arguments of the command line.
ARGUMENTS = [
    ("lokup", "there is no command 'lokup'; did you mean 'lookup'?"),
    ("frobnicate", "there is no command 'frobnicate'; 'zkdns --help' lists the commands"),
    ("--colour", "--colour: there is no such option; 'zkdns --help' lists the options"),
    ("help nothing", "there is no topic or command 'nothing'; 'zkdns help' lists the topics"),
    ("help regster", "there is no topic or command 'regster'; did you mean 'register'?"),
    ("check --tll 5", "--tll: there is no such option; did you mean --ttl?"),
    ("check --colour red", "--colour: there is no such option; 'zkdns check --help' lists the options"),
    ("check --ttl", "--ttl: needs a value; write --ttl SECONDS"),
    ("wait web.staging --min", "--min: needs a value; write --min N"),
    ("check --demo=yes", "--demo: takes no value; write --demo alone"),
    ("check web", "web: unexpected argument; usage: zkdns check [OPTIONS]"),
    ("wait", "SERVICE: is missing; usage: zkdns wait [OPTIONS] SERVICE"),
    ("lookup", "there is no name; write NAME, such as web.staging, or -x ADDRESS"),
    ("completion tcsh", "SHELL: 'tcsh' is not one of 'bash', 'zsh', 'fish'"),
    ("wait web.staging --min abc", "--min: is 'abc'; write an integer from 0 to 1000000"),
    ("wait web.staging --max -1", "--max: is '-1'; write an integer from 0 to 1000000"),
    ("wait web.staging --exactly 1.5", "--exactly: is '1.5'; write an integer from 0 to 1000000"),
    ("wait web.staging --min 3 --max 2", "--min 3: is greater than --max 2"),
    ("wait web.staging --gone --min 1", "write one of --gone, --exactly N, or --min N and --max N"),
    (
        "wait web.staging --timeout soon",
        "--timeout: is 'soon'; write a duration of at most 1d, such as 500ms, 1.5s or 2m",
    ),
    (
        "history --since 2y",
        "--since: is '2y'; write a duration of at most 1y, such as 500ms, 1.5s or 2m",
    ),
    ("history --last 0", "--last: is '0'; write an integer from 1 to 100000"),
    (
        "lookup web --timeout nan",
        "--timeout: is 'nan'; write a duration from 10ms to 1h, such as 500ms, 1.5s or 2m",
    ),
    ("lookup a..b", "'a..b' is not a domain name: it has an empty label"),
    ("lookup web NO", "'NO' is not a record type; write A, AAAA, SRV, TXT, …"),
    ("lookup web --dns a:b", "--dns: 'a:b' has the port 'b'; a port is 1 to 65535"),
    ("lookup web --server a", "--server: 'a' is neither a URL nor a path; …; for a DNS server …@ADDRESS"),
    ("lookup web --server ftp://a", "--server: 'ftp://a' has the scheme 'ftp'; write http://HOST:PORT, …"),
    ("accept", "write one SERVICE, or --all for all services"),
    ("accept --all --token-file {tmp}/none", "--token-file: '…/none' cannot be read (no such file or …"),
    ("accept --all --token-file {tmp}", "--token-file: '…' is not a regular file; name a file that holds…"),
    ("dump", "write --zone for a zone file, or --json for all members"),
    ("dump --zone other --demo", "--zone: there is no zone other; write --zone discovery"),
    ("dump --json --demo --server x", "--server: cannot be combined with the source --demo; remove one …"),
    ("dump --json --snapshot x", "--snapshot: is only used with a source; add one of --zookeeper, …"),
    ("setup --root {tmp}/none", "--root: …/none is not a directory"),
    ("setup --undo --apply", "--undo: cannot be combined with --apply"),
    (
        "register web --environment staging --port 80 --drain 2h --zookeeper a",
        "--drain: is '2h'; write a duration of at most 1h, such as 500ms, 1.5s or 2m",
    ),
    (
        "register web --environment staging --port 80 --interval 0 --zookeeper a",
        "--interval: is '0'; write a duration from 10ms to 1h, such as 500ms, 1.5s or 2m",
    ),
    ("register web --environment staging --zookeeper a", "--port: is missing; write an integer from 0 to …"),
]

# Settings, as options of `zkdns check`.
SETTINGS_ROWS = [
    ("--zookeeper zk1:x", "--zookeeper: 'zk1:x' has the port 'x'; a port is 1 to 65535"),
    ("--zookeeper 'a b'", "--zookeeper: 'a b' has no usable host; write an IP address or a host name …"),
    ("--zookeeper http://a:1", "--zookeeper: 'http://a:1' starts with http://; write HOST:PORT,HOST:PORT …"),
    ("--zookeeper a/b/", "--zookeeper: '/b/' is not a path: a path starts with a slash, ends without …"),
    ("--zookeeper ''", "--zookeeper: is empty; write HOST[:PORT],…[/CHROOT]"),
    ("--ttl 5m", "--ttl: is '5m'; write the number of seconds: 300"),
    ("--ttl five", "--ttl: is 'five'; write a whole number of seconds from 0 to 86400 (1d)"),
    ("--snapshot-max-age 9y", "--snapshot-max-age: is '9y'; write a whole number of … 0 to 31536000 (1y)"),
    ("--zookeeper-session-timeout 0", "--zookeeper-session-timeout: is '0'; write … 1 to 600 (10m)"),
    ("--workers many", "--workers: is 'many'; write an integer from 1 to 256"),
    ("--log-queries 2", "--log-queries: is '2'; write a number from 0 to 1, such as 0.01"),
    ("--log-level loud", "--log-level: is 'loud'; write one of debug, info, warning, error"),
    ("--allow ''", "--allow: is empty; write an address or a network, such as 10.0.0.0/8"),
    ("--allow 10.0.0.1/8", "--allow: '10.0.0.1/8' has bits set after its prefix; the network is 10.0.0.0/8"),
    ("--listen localhost", "--listen: 'localhost' is not an address to listen on; write an IP address and …"),
    ("--upstream dns.example", "--upstream: 'dns.example' is not an address to forward to; write an IP …"),
    ("--upstream auto --upstream ::1", "--upstream: has auto together with other values; write auto alone"),
    ("--admin-socket /tmp/{long}", "--admin-socket: is '/tmp/x…', which has 205 bytes; write the path of …"),
    ("--admin-key {tmp}/pem", "--admin-key: has no effect without a certificate; write admin.certificate …"),
    ("--admin-certificate {tmp}/none", "…/none: cannot be used with its key (no such file or directory); …"),
    ("--admin-certificate {tmp}/text", "…/text: cannot be used with its key (it has no PEM data of this …"),
    (
        "--tls-listen 127.0.0.1 --tls-certificate {tmp}/none",
        "…/none: cannot be used with its key (no such file or …",
    ),
    ("--zookeeper-tls --zookeeper-ca {tmp}", "…: is not a file of CA certificates (is a directory); write …"),
    ("--zookeeper-tls --zookeeper-certificate {tmp}/text", "…/text: cannot be used as certificate and key …"),
    ("--zookeeper-ca {tmp}/text", "--zookeeper-ca: has no effect without TLS; write zookeeper.tls as well"),
    ("--zookeeper-credentials {tmp}/none", "…/none: cannot be read (no such file or directory); name a …"),
    ("--zookeeper-credentials {tmp}/text", "…/text: is not TOML: Expected '=' after a key … (at line 1, …"),
    ("--zookeeper-credentials {tmp}/digest", "…/digest: is accessible to every user of this machine …"),
    ("--static {tmp}/none", "…/none: cannot be read (no such file or directory); name a TOML file that …"),
    ("--static {tmp}", "…: cannot be read (is a directory); name a TOML file that this user may read"),
    ("--static {tmp}/latin", "…/latin: is not UTF-8 (at line 2); TOML is always UTF-8"),
    (
        "--static {tmp}/text",
        "…/text: is not TOML: Expected '=' after a key … (at line 1, …",
    ),
    ("--config {tmp}/none", "…/none: cannot be read (no such file or directory); name a TOML file that …"),
    ("--config {tmp}", "…: cannot be read (is a directory); name a TOML file that this user may read"),
    ("--config {tmp}/latin", "…/latin: is not UTF-8 (at line 2); TOML is always UTF-8"),
    (
        "--config {tmp}/text",
        "…/text: is not TOML: Expected '=' after a key … (at line 1, …",
    ),
    ("--offline", "--offline: needs a snapshot; write snapshot.path (--snapshot FILE)"),
    ("--offline --snapshot {tmp}/none", "…/none: cannot be read: there is no such file"),
    ("--offline --snapshot {tmp}", "…: cannot be read: is a directory"),
    ("--offline --snapshot {tmp}/text", "…/text: is not a snapshot of this version of zkdns"),
]

# The section of a file, an unknown or wrong key in it, and the end of the message.
KEYS = [
    ("", "zoen = 'a'", "unknown key 'zoen'; did you mean zone?"),
    ("", "colour = 'red'", "unknown key 'colour'; 'zkdns help settings' lists all"),
    ("", "session_timeout = 1", "unknown key 'session_timeout'; did you mean zookeeper.session_timeout?"),
    ("[zookeeper]", "host = 'a'", "zookeeper: unknown key 'host'; did you mean hosts?"),
    ("[forward]", "upstream = 'a'", "forward: unknown key 'upstream'; did you mean upstreams?"),
    ("[cache]", "entrys = 5", "cache: unknown key 'entrys'; did you mean entries?"),
    ("[access]", "ratelimit = 5", "access: unknown key 'ratelimit'; did you mean rate_limit?"),
    ("[admin]", "sokcet = 'a'", "admin: unknown key 'sokcet'; did you mean socket?"),
    ("[snapshot]", "colour = 5", "snapshot: unknown key 'colour'; accepted: path, max_age"),
    ("[guard]", "time = 5", "guard: unknown key 'time'; accepted: share, minimum, seconds"),
    ("[log]", "levle = 'info'", "log: unknown key 'levle'; did you mean level?"),
    ('[service."a.b"]', "tll = 5", "service.\"a.b\": unknown key 'tll'; did you mean ttl?"),
    ('[forward.zone."a.b"]', "x = 5", "forward.zone.\"a.b\": unknown key 'x'; accepted: upstreams"),
    ("[[namespace]]", "pathh = '/{a}'", "namespace[0]: unknown key 'pathh'; did you mean path?"),
    ("", "ttl = '5'", "ttl: is the text '5'; write 5 without quotes"),
    ("[cache]", "entries = true", "cache.entries: is true; write an integer from 1 to 1000000"),
    ("[log]", "queries = 2.0", "log.queries: is 2.0; write a number from 0 to 1, such as 0.01"),
    ("", "snapshot = '/a'", "snapshot: is '/a'; write a section, [snapshot] with path, max_age"),
]

# Servers of zkdns that do not respond, for all commands that use one.
SERVER_COMMANDS = [
    *("lookup web", "explain web", "history", "wait web.staging --timeout 0", "accept --all", "flush"),
    *("dump --json", "top --once", "status", "reload"),
]
SERVERS = [
    (
        "http://nosuchhost.invalid",
        "the server at http://nosuchhost.invalid:9153 cannot …: no such host",
    ),
    (
        "http://{closed}",
        "no server listens at http://{closed} (connection refused); start one, or …",
    ),
    (
        "{tmp}/none",
        "no server listens at {tmp}/none (no such file or directory); start one, or …",
    ),
    ("{tmp}/text", "no server listens at {tmp}/text (it is not a socket); start one, or …"),
    ("/var/{long}", "the server at /var/{long} cannot be reached: AF_UNIX path too long"),
]

# Refusals of a server: HTTP status, exit status and message.
REFUSALS = [
    (400, USAGE, "the reason"),
    (401, USAGE, "the server's token is missing or wrong; name the file that has it with --token-file"),
    (403, FAILED, "the reason"),
    (404, NEGATIVE, "the reason"),
    (500, NO_RESPONSE, "the reason"),
    (503, NO_RESPONSE, "the reason"),
]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)
    monkeypatch.delenv("ZKDNS_CONFIG", raising=False)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The values of placeholders in the tables."""
    directory = tmp_path_factory.mktemp("messages")
    (directory / "text").write_text("no TOML, no PEM\n")
    (directory / "latin").write_bytes(b"ttl = 5\n# \xff\n")
    (directory / "digest").write_text('digest = "a:b"\n')
    (directory / "digest").chmod(0o644)
    return {"tmp": str(directory), "long": "x" * 200, "closed": f"127.0.0.1:{free_port()}"}


def check(line: str, status: int, message: str, **environment: str) -> None:
    """Run a command in this process. It must end with this status and only this message."""
    result = CliRunner().invoke(main, shlex.split(line), prog_name="zkdns", env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    parts = message.split("…")
    assert re.fullmatch("zkdns: " + ".*".join(map(re.escape, parts)) + "\n", result.stderr), result.stderr
    assert (result.exit_code, result.stdout) == (status, "")


@pytest.mark.parametrize(("line", "message"), ARGUMENTS)
def test_arguments(line: str, message: str, places: dict[str, str]) -> None:
    check(line.format(**places), USAGE, message)


@pytest.mark.parametrize(("options", "message"), SETTINGS_ROWS)
def test_settings(options: str, message: str, places: dict[str, str]) -> None:
    check(f"check {options.format(**places)}", USAGE, message)


@pytest.mark.parametrize(("section", "key", "message"), KEYS)
def test_keys_of_the_file(section: str, key: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "zkdns.toml"
    path = "" if section != "[[namespace]]" else "path = '/a/{environment}/{service}'\n"
    file.write_text(f"{section}\n{path}{key}\n")
    check(f"check --config {file}", USAGE, f"{file}: {message}")


@pytest.mark.parametrize("command", SERVER_COMMANDS)
def test_servers_that_do_not_respond(command: str, places: dict[str, str]) -> None:
    for server, message in SERVERS:
        line = f"{command} --server {server.format(**places)}"
        check(line, NO_RESPONSE, message.format(**places))


@pytest.mark.parametrize(("code", "status", "message"), REFUSALS)
def test_refusals_of_a_server(code: int, status: int, message: str, short_path: Path) -> None:
    path, api = short_path / "api", "accept"
    with FakeApi(str(path), {api: (code, {"error": "the reason"})}).serving():
        check(f"accept --all --server {path}", status, message)


def test_a_variable_is_named_as_the_place_of_its_value(places: dict[str, str]) -> None:
    file = f"{places['tmp']}/none"
    message = f"ZKDNS_TOKEN_FILE: '{file}' cannot be read (no such file or directory); name a file …"
    check("accept --all", USAGE, message, ZKDNS_TOKEN_FILE=file)
    check("lookup web", USAGE, "ZKDNS_SERVER: 'a' is neither a URL nor a path; …", ZKDNS_SERVER="a")
    check("check", USAGE, "ZKDNS_DEMO: is 'perhaps'; write true or false", ZKDNS_DEMO="perhaps")
    check("check", USAGE, "ZKDNS_TLL: is unknown; did you mean ZKDNS_TTL?", ZKDNS_TLL="5")


def test_a_process_ends_with_the_same_message_and_status() -> None:
    ended = run("check", "--ttl", "5m", "--colour")
    message = "zkdns: --colour: there is no such option; 'python -m zkdns check --help' lists the options\n"
    assert ended == (USAGE, "", message)
