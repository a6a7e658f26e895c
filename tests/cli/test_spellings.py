"""Every command takes every spelling of a service: names, paths, addresses and `--environment`."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from tests.cli import Command, run
from tests.support.forked_command import Ended
from tests.support.loopback import free_port
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from zkdns.cli import main
from zkdns.cli.statuses import ExitStatus

pytestmark = pytest.mark.processes

WEB = "web.staging.discovery."
SPELLINGS = [
    ("web.staging",),
    ("WEB.staging.Discovery",),
    ("web.staging.discovery.",),
    ("/discovery/staging/web",),
    ("--environment", "staging", "web"),
]


def invoke(server: ZkdnsServer, *arguments: str) -> Ended:
    """Run a command in this process."""
    variables = {"ZKDNS_ADMIN_SOCKET": server.api, "LOCALDOMAIN": ""}
    found = CliRunner().invoke(main, arguments, prog_name="zkdns", env=variables)
    return Ended(found.exit_code, found.stdout, found.stderr)


def looked_up(server: ZkdnsServer, *arguments: str) -> list[dict[str, Any]]:
    ended = invoke(server, "lookup", *arguments, "--json")
    return [json.loads(line) for line in ended.output.splitlines()]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_server_finds_a_service_by_each_spelling(demo: ZkdnsServer, spelling: tuple[str, ...]) -> None:
    (found,) = looked_up(demo, *spelling)
    assert (found["name"].lower(), len(found["answers"])) == (WEB, 3)
    explained = json.loads(invoke(demo, "explain", *spelling, "--json").output)
    assert (explained["kind"], explained["service"]) == ("service", "web.staging")
    assert invoke(demo, "wait", *spelling, "--exactly", "3") == (ExitStatus.SUCCESS, "", "")
    assert "no members of " in invoke(demo, "accept", *spelling).errors
    assert "the server has no changes of " in invoke(demo, "history", *spelling).errors


def test_an_address_stands_for_the_service_of_its_member(demo: ZkdnsServer) -> None:
    assert invoke(demo, "wait", "192.0.2.2:8080", "--exactly", "3") == (ExitStatus.SUCCESS, "", "")
    assert "no members of web.staging.discovery. are held" in invoke(demo, "accept", "192.0.2.2").errors
    explained = invoke(demo, "explain", "192.0.2.2")
    assert "members at 192.0.2.2: web.staging (m1)" in explained.output
    assert invoke(demo, "history", "192.0.2.2").status == ExitStatus.NEGATIVE
    (found,) = looked_up(demo, "192.0.2.2:8080")
    assert (found["name"], found["type"]) == ("2.2.0.192.in-addr.arpa.", "PTR")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("accept", "web.stagin"), "there is no service web.stagin; similar names: web.staging"),
        (("history", "web.stagin"), "there is no service web.stagin; similar names: web.staging"),
        (("history", "web"), "there is no service web; similar names: web.prod, web.staging"),
        (
            ("accept", "--environment", "staging", "wbe"),
            "there is no service wbe.staging; similar names: web",
        ),
        (("wait", "wbe.staging", "--timeout", "0"), "expected at least 1; similar names: web.staging"),
    ],
)
def test_an_unknown_service_is_an_error_with_similar_names(
    demo: ZkdnsServer, arguments: tuple[str, ...], error: str
) -> None:
    ended = invoke(demo, *arguments)
    assert (ended.status, ended.output) == (ExitStatus.NEGATIVE, "")
    assert error in ended.errors
    assert ended.errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ("explain", "/discovery/staging/web", "--environment", "prod"),
            "with --environment, write only web",
        ),
        (("history", "--environment", "prod"), "--environment: is without a service"),
        (("lookup", "--environment", "prod"), "--environment: is without a service"),
        (("wait", "10.0.0.1:http"), "has the port 'http'; ports are 0 to 65535"),
        (("explain", "a..b"), "'a..b' is not a domain name: it has an empty label"),
        (("services", "--environment", "a/b"), "--environment: is 'a/b'; write a znode name"),
        (("services", "--namespace", "/x/{service}"), "--namespace: is only used with --direct"),
        (("services", "--direct", "--server", "/x/api"), "--server: cannot be combined with --direct"),
        (("lookup", "web.staging", "SVR"), "'SVR' is not a record type (did you mean SRV?)"),
        (("lookup", "@", "web.staging"), "'@' names no server"),
        (("lookup", "-x", "foo"), "-x: 'foo' is not an address"),
        (
            ("lookup", "@127.0.0.1", "web.staging", "--dns", "::1"),
            "--dns: cannot be combined with @127.0.0.1",
        ),
        (("lookup", "/discovery/staging"), "is not the path of a service; those are /discovery/"),
    ],
)
def test_bad_input_is_a_usage_error_that_names_what_is_accepted(
    demo: ZkdnsServer, arguments: tuple[str, ...], error: str
) -> None:
    ended = invoke(demo, *arguments)
    assert (ended.status, ended.output) == (ExitStatus.USAGE, "")
    assert error in ended.errors


# -- lookup -------------------------------------------------------------------------------------------------


def test_several_names_and_types_are_looked_up_in_order(demo: ZkdnsServer) -> None:
    found = looked_up(demo, "web.staging", "a", "Srv", "ipv6-only.staging.discovery", "AAAA")
    assert [(one["name"], one["type"], len(one["answers"])) for one in found] == [
        (WEB, "A", 3),
        (WEB, "SRV", 3),
        ("ipv6-only.staging.discovery.", "AAAA", 2),
    ]
    assert [one["asked"] for one in found] == ["web.staging", "web.staging", "ipv6-only.staging.discovery"]
    ended = invoke(demo, "lookup", "web.staging", "nothing.staging")
    assert ended.status == ExitStatus.NEGATIVE
    assert ended.output.startswith(f"{WEB} A: NOERROR, 3 records, from ")
    assert "\n\nnothing.staging. A: REFUSED, no record, " in ended.output
    assert "\nalso tried: nothing.staging.discovery.\n" in ended.output


@pytest.mark.parametrize("written", ["@127.0.0.1:{port}", "--dns=127.0.0.1:{port}"])
def test_a_named_dns_server_is_queried_without_the_api(demo: ZkdnsServer, written: str) -> None:
    variables = {"ZKDNS_ADMIN_SOCKET": "/nowhere/api", "LOCALDOMAIN": ""}
    arguments = ("lookup", written.format(port=demo.port), "web.staging", "/discovery/prod/web")
    ended = CliRunner().invoke(main, arguments, prog_name="zkdns", env=variables)
    assert (ended.exit_code, ended.stderr) == (ExitStatus.SUCCESS, "")
    assert f"{WEB} A: NOERROR, 3 records, from 127.0.0.1:{demo.port} in " in ended.stdout
    assert "web.prod.discovery. A: NOERROR, 2 records" in ended.stdout


def test_the_search_list_is_tried(demo: ZkdnsServer) -> None:
    variables = {"ZKDNS_ADMIN_SOCKET": demo.api, "LOCALDOMAIN": "test.discovery staging.discovery"}
    ended = CliRunner().invoke(main, ("lookup", "web", "--json"), prog_name="zkdns", env=variables)
    found = json.loads(ended.stdout)
    assert (found["name"], found["asked"]) == (WEB, "web")
    assert found["tried"] == ["web.discovery.", "web.test.discovery."]


def test_an_unknown_name_is_printed_with_similar_ones(demo: ZkdnsServer) -> None:
    ended = invoke(demo, "lookup", "wbe.staging")
    assert ended.status == ExitStatus.NEGATIVE
    assert "\nsimilar names: web.staging" in ended.output


def test_an_unknown_name_has_similar_ones_also_if_the_upstream_fails() -> None:
    """The name as typed is forwarded, so that its response is that of the upstream."""
    with ZkdnsServer("--demo", "--upstream", f"127.0.0.1:{free_port()}") as server:
        server.wait_ready()
        ended = invoke(server, "lookup", "wbe.staging")
    assert ended.status == ExitStatus.NEGATIVE
    assert ended.output.startswith("wbe.staging. A: SERVFAIL, ")
    assert "\nalso tried: wbe.staging.discovery.\nsimilar names: web.staging" in ended.output


def test_an_address_without_a_reverse_name_leads_to_explain(demo: ZkdnsServer) -> None:
    """The setting `reverse` is off by default."""
    ended = invoke(demo, "lookup", "-x", "192.0.2.2")
    assert ended.status == ExitStatus.NEGATIVE
    assert "\nzkdns explain 192.0.2.2 names the members at an address" in ended.output
    assert "members at 192.0.2.2: web.staging (m1)" in invoke(demo, "explain", "192.0.2.2").output


def test_reverse_names_are_found_by_the_option() -> None:
    with ZkdnsServer("--demo", "--reverse") as server:
        server.wait_ready()
        for arguments in (("-x", "192.0.2.2"), ("192.0.2.2:8080",), ("-x", "192.0.2.2", "web.staging")):
            found = looked_up(server, *arguments)[0]
            assert [one["data"] for one in found["answers"]] == ["m1.web.staging.discovery."]


# -- services -----------------------------------------------------------------------------------------------


def test_services_are_those_of_the_server(demo: ZkdnsServer) -> None:
    ended = invoke(demo, "services", "--environment", "prod")
    assert ended == (ExitStatus.SUCCESS, "prod\tdatabase\t2\nprod\tweb\t4\n", "")
    ended = invoke(demo, "services", "--environment", "nothing")
    assert (ended.status, ended.output) == (ExitStatus.NEGATIVE, "")
    assert ended.errors == f"zkdns: there is no environment 'nothing' at the server {demo.api}\n"


def test_the_list_of_the_server_is_that_of_zookeeper(
    zookeeper: ZooKeeperServer, environment: dict[str, str], zk: Any, zk_root: str
) -> None:
    for path in (
        *("staging/web/member_0000000001", "staging/web/member_0000000002", "staging/web/vector_0000000000"),
        *("staging/idle", "prod/api.v2/member_0000000007", "prod/db/member_0000000001", "prod/db/leader"),
        *("prod/nerve/i-1_0000000001", "prod/nerve/i-2_0000000002", "test"),
    ):
        zk.create(f"{zk_root}/{path}", b'{"host":"10.0.0.1","port":80,"name":"i"}', makepath=True)
    with ZkdnsServer("--zookeeper", zookeeper.address, environment=environment) as server:
        server.wait_ready().wait_api()
        variables = {**environment, "ZKDNS_ADMIN_SOCKET": server.api, "ZKDNS_LOG_LEVEL": "error"}
        for options in ((), ("--json",), ("--environment", "prod"), ("--environment", "test", "--json")):
            directly = run("services", "--direct", *options, environment=variables)
            assert run("services", *options, environment=variables) == directly
            assert directly.status == ExitStatus.SUCCESS
        assert "nerve has no members, but 2 other children: i-1_0000000001, i-2_0000000002 (nerve)" in (
            run("services", environment=variables).errors
        )


# -- commands that use ZooKeeper ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spelling",
    [
        ("web.staging",),
        ("web.staging.discovery",),
        ("{root}/staging/web",),
        ("web", "--environment", "staging"),
    ],
)
def test_register_and_watch_use_the_same_znode(
    environment: dict[str, str], zk: Any, zk_root: str, spelling: tuple[str, ...]
) -> None:
    words = [word.format(root=zk_root) for word in spelling]
    member = ("--host", "10.0.0.1", "--port", "8080")
    with (
        Command("register", *words, *member, environment=environment),
        Command("watch", *words, environment=environment) as watch,
    ):
        eventually(lambda: " + 10.0.0.1:8080 " in watch.output, 20.0)
        assert len(zk.get_children(f"{zk_root}/staging/web")) == 1


def test_watch_reports_a_service_that_does_not_exist(
    environment: dict[str, str], zk: Any, zk_root: str
) -> None:
    zk.create(f"{zk_root}/staging/checkout", makepath=True)
    with Command("watch", "chekcout.staging", environment=environment) as watch:
        path = f"{zk_root}/staging/chekcout"
        expected = f"zkdns: there is no service chekcout.staging yet ({path}); similar names: checkout\n"
        eventually(lambda: expected in watch.errors, 20.0)


@pytest.mark.parametrize("command", [("register", "--port", "80"), ("watch",)])
def test_an_address_is_an_error_of_commands_without_a_server(command: tuple[str, ...]) -> None:
    ended = run(*command, "10.0.0.1:8080", "--zookeeper", "127.0.0.1")
    assert (ended.status, ended.output) == (ExitStatus.USAGE, "")
    assert "SERVICE: '10.0.0.1:8080' is an address, which only a server can find; write web" in ended.errors
