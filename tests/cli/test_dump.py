"""`zkdns dump --zone` from running servers and from sources, and without either."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import dns.zone
import pytest

from tests.cli import run
from tests.serverset.sync_helpers import join
from tests.support.fake_api import responding
from tests.support.forked_command import Ended
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.processes

TWO_ZONES = """
demo = true
[[namespace]]
path = "/discovery/{environment}/{service}"
[[namespace]]
path = "/aurora/{role}/{environment}/{job}"
zone = "aurora"
"""
STATIC = '[services."web.staging"]\nmembers = ["10.0.0.1:80"]\n'


def dump(server: ZkdnsServer, *arguments: str) -> Ended:
    return run("dump", *arguments, environment={"ZKDNS_ADMIN_SOCKET": server.api})


def records(text: str) -> set[str]:
    """All lines except the SOA record, whose serial is the time."""
    return {line for line in text.splitlines() if "\tSOA\t" not in line}


def test_the_zone_file_of_a_server_has_the_records_it_answers_with() -> None:
    with ZkdnsServer("--demo") as server:
        server.wait_ready()
        eventually(lambda: "127.0.0.1" in server.lookup("m0.database.prod.discovery"))
        ended = dump(server, "--zone")
        assert (ended.status, ended.errors) == (0, "")
        zone = dns.zone.from_text(ended.output, "discovery.", relativize=False)
        for name, qtype in (
            ("web.staging", "A"),
            ("_admin._tcp.web.staging", "SRV"),
            ("s2.web.staging", "TXT"),
        ):
            found = zone.get_rdataset(f"{name}.discovery.", qtype)
            assert found is not None
            assert {str(record) for record in found} == server.lookup(f"{name}.discovery", qtype)
        soa = zone.get_rdataset("discovery.", "SOA")
        assert soa is not None
        assert {str(soa[0])} == server.lookup("discovery", "SOA")
        assert records(run("dump", "--zone", "--demo").output) == records(ended.output)


def test_a_name_is_required_if_there_are_several_zones(tmp_path: Path) -> None:
    config = tmp_path / "zkdns.toml"
    config.write_text(TWO_ZONES)
    with ZkdnsServer("--config", str(config)) as server:
        server.wait_ready()
        which = "write --zone discovery or --zone aurora\n"
        assert dump(server, "--zone") == (
            2,
            "",
            f"zkdns: --zone: needs a name, because there are several zones; {which}",
        )
        missing = dump(server, "--zone", "example")
        assert missing == (2, "", f"zkdns: --zone: there is no zone example; {which}")
        wrong = dump(server, "--zone", "a..b")
        assert wrong == (2, "", "zkdns: --zone: 'a..b' is not a domain name: it has an empty label\n")
        aurora = dump(server, "--zone", "AURORA.")
        assert (aurora.status, aurora.errors) == (0, "")
        assert records(aurora.output) == {
            "aurora.\t5\tIN\tNS\tlocalhost.",
            '_digest.aurora.\t5\tIN\tTXT\t"v=1" "members=0" "digest=0000000000000000"',
        }
        assert "web.staging.discovery.\t5\tIN\tA\t192.0.2.1" in dump(server, "--zone", "discovery").output


def test_a_table_that_is_not_read_yet_is_an_error() -> None:
    with ZkdnsServer("--zookeeper", "127.0.0.1:1") as server:
        unread = (1, "", "zkdns: the table has not been read yet; try again when it has\n")
        eventually(lambda: dump(server, "--zone") == unread)
        assert dump(server, "--json") == unread


def test_zookeeper_is_read_without_a_server(environment: dict[str, str], zk: Any, zk_root: str) -> None:
    join(zk, f"{zk_root}/staging/web", "10.0.0.1", 8080)
    flags = ("--zookeeper", environment["ZKDNS_ZOOKEEPER"], "--namespace", environment["ZKDNS_NAMESPACE"])
    ended = run("dump", "--zone", *flags)
    assert (ended.status, ended.errors) == (0, "")
    assert "m0.web.staging.discovery.\t5\tIN\tSRV\t0 100 8080 m0.web.staging.discovery.\n" in ended.output


def test_a_static_file_is_read_without_a_server(tmp_path: Path) -> None:
    file = tmp_path / "services.toml"
    file.write_text(STATIC)
    ended = run("dump", "--zone", "discovery", "--static", str(file))
    assert (ended.status, ended.errors) == (0, "")
    assert "web.staging.discovery.\t5\tIN\tA\t10.0.0.1\n" in ended.output
    file.write_text("wrong = 1")
    ended = run("dump", "--zone", "--static", str(file))
    assert (ended.status, ended.output) == (2, "")
    assert ended.errors.startswith(f"zkdns: {file}: wrong: is not known")


def test_the_zone_file_of_a_snapshot_has_a_comment_about_its_age(
    own_zookeeper: ZooKeeperServer, tmp_path: Path
) -> None:
    snapshot = str(tmp_path / "snapshot")
    with ZkdnsServer("--zookeeper", own_zookeeper.address, "--snapshot", snapshot) as server:
        server.wait_ready()
        assert server.terminate() == 0
    before = Path(snapshot).read_bytes()
    ended = run("dump", "--zone", "--offline", "--snapshot", snapshot)
    assert (ended.status, ended.errors) == (0, "")
    comment, soa, *_ = ended.output.splitlines()
    assert comment == "; the source of these records is unreachable: this is the last table that was read"
    assert soa.startswith("discovery.\t2\tIN\tSOA\t")
    assert Path(snapshot).read_bytes() == before


def test_without_a_server_the_exit_status_is_3(short_path: Path) -> None:
    control = str(short_path / "api")
    ended = run("dump", "--zone", "--server", control)
    assert (ended.status, ended.output) == (3, "")
    assert ended.errors.startswith(
        f"zkdns: no server listens at {control} (no such file or directory); start one"
    )
    ended = run("dump", "--zone", environment={"ZKDNS_ADMIN": "none"})
    assert ended == (
        2,
        "",
        "zkdns: no address of a server is configured; name the server with --server URL\n",
    )


SOURCES = ("--zookeeper", "--primary", "--static", "--demo", "--offline")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), "write --zone for a zone file, or --json for all members"),
        (("--zone", "--json"), "write --zone for a zone file, or --json for all members"),
        (
            ("--zone", "--snapshot", "file"),
            f"--snapshot: is only used with a source; add one of {', '.join(SOURCES)}",
        ),
        (
            ("--zone", "--demo", "--server", "file"),
            "--server: cannot be combined with the source --demo; remove one of them",
        ),
    ],
)
def test_usage_errors(arguments: tuple[str, ...], error: str) -> None:
    assert run("dump", *arguments) == (2, "", f"zkdns: {error}\n")


@pytest.mark.parametrize(
    ("status", "body", "expected", "error"),
    [
        (200, b'{"type":"other"}\n', 3, "the server at {} is of another version of zkdns"),
        (200, b'{"type":"head"', 3, "the server at {} sent no complete HTTP response; is it a zkdns server?"),
        (404, {"error": "there is no table"}, 1, "there is no table"),
        (503, {"error": "try later"}, 3, "try later"),
        (500, b"oops", 3, "oops"),
    ],
)
def test_unexpected_responses_are_errors(
    short_path: Path, status: int, body: object, expected: int, error: str
) -> None:
    path = str(short_path / "api")
    with responding(path, "table", body, status):
        ended = run("dump", "--zone", "--server", path)
    assert ended == (expected, "", f"zkdns: {error.format(path)}\n")


def test_a_closed_pipe_ends_it_without_an_error(tmp_path: Path) -> None:
    members = ", ".join(f'"10.0.{number >> 8}.{number & 255}:80"' for number in range(5000))
    file = tmp_path / "services.toml"
    file.write_text(f'[services."web.staging"]\nmembers = [{members}]\n')
    for target, error in (
        ("| head -n 1", ""),
        (">/dev/full", "zkdns: cannot write to standard output: No space left on device\n"),
    ):
        ended = subprocess.run(
            ["sh", "-c", f'"$0" -m zkdns dump --zone --static "$1" {target}', sys.executable, str(file)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ended.stderr == error
