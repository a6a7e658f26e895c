"""Errors of `zkdns register`: usage errors, an unreachable ZooKeeper, and missing permission."""

import signal
from typing import Any

import pytest
from kazoo.security import make_acl

from tests.cli import AS_PROGRAM, SERVED, Command, run
from tests.support.zookeeper import ZooKeeperServer
from zkdns.cli.statuses import ExitStatus

pytestmark = pytest.mark.processes


def test_all_usage_errors_are_printed(environment: dict[str, str], zk: Any, zk_root: str) -> None:
    ended = run(
        "register", "a..b", "--port", "65536", "--host", "10.0.0", "--endpoint", "admin", "--check", "ping",
        "--interval", "fast", "--shard", "x", "--metadata", "k", "--drain", "2h", "--log-level", "loud",
        environment=environment,
    )  # fmt: skip
    assert ended.status == 2
    options = [line.removeprefix("zkdns: ").partition(": ")[0] for line in ended.errors.splitlines()]
    assert sorted(options) == [
        "--check", "--drain", "--endpoint", "--host", "--interval", "--log-level",
        "--metadata", "--port", "--shard", "SERVICE",
    ]  # fmt: skip
    assert "from 0 to 65535" in ended.errors
    assert "tcp, http:/PATH, http:PORT/PATH, exec:CMD" in ended.errors
    assert zk.exists(zk_root) is None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--environment", "e"), "--port: is missing"),
        (("--environment", "e", "--port", "0"), "--port: is 0"),
        (
            ("--environment", "e", "--port", "0", "--endpoint", "a=1", "--check", "tcp"),
            "--check: needs a port",
        ),
        (
            ("--environment", "e", "--port", "1", "--endpoint", "a=1", "--endpoint", "a=2"),
            "--endpoint: a is given",
        ),
        (
            ("--environment", "e", "--port", "1", "--host", "0.0.0.0"),
            "--host: host '0.0.0.0' is the wildcard address",
        ),
        (
            ("--environment", "e", "--port", "1", "--namespace", "/aurora/{role}/{environment}/{job}"),
            "SERVICE: '/aurora/{role}/{environment}/{job}' contains {role}",
        ),
    ],
)
def test_a_usage_error_names_its_option(arguments: tuple[str, ...], error: str) -> None:
    ended = run("register", "web", *arguments)
    assert ended.status == 2
    [line] = ended.errors.splitlines()
    assert line.startswith(f"zkdns: {error}")


def test_a_member_larger_than_64_kib_is_a_usage_error(
    environment: dict[str, str], zk: Any, zk_root: str
) -> None:
    metadata = [word for key in range(7) for word in ("--metadata", f"{key}={'x' * 10_000}")]
    ended = run("register", *SERVED, *metadata, environment=environment)
    assert ended.status == 2
    assert "readers accept at most 65536" in ended.errors
    assert zk.exists(zk_root) is None


def test_an_unreachable_zookeeper_is_an_error_and_no_program_starts(own_zookeeper: ZooKeeperServer) -> None:
    own_zookeeper.kill()
    options = ("--zookeeper", own_zookeeper.address)
    with (  # in parallel, because each waits
        Command("register", *SERVED, *options, "--", "echo", "started") as register,
        Command("watch", "web", "--environment", "staging", *options) as watch,
        Command("services", "--direct", *options) as services,
    ):
        for command, action in ((register, "register in"), (watch, "watch"), (services, "list")):
            assert command.wait(20.0) == ExitStatus.NO_RESPONSE
            assert command.output == ""
            [sentence] = [line for line in command.errors.splitlines() if line.startswith("zkdns: ")]
            service = "" if command is services else "web.staging: "
            assert sentence.startswith(f"zkdns: {service}cannot {action} /discovery")
            assert f"ZooKeeper at {own_zookeeper.address} is unreachable: connection refused" in sentence
            assert ("--wait" in sentence) is (command is register)


@pytest.mark.parametrize("line", [("register", *SERVED), ("watch", "web.staging")], ids=["register", "watch"])
def test_refused_connections_are_reported_while_the_command_retries(
    own_zookeeper: ZooKeeperServer, line: tuple[str, ...]
) -> None:
    """Long before the command gives up, which takes ten seconds."""
    own_zookeeper.kill()
    with Command(*line, "--zookeeper", own_zookeeper.address) as command:
        [event] = command.wait_logged("zookeeper_unreachable").events("zookeeper_unreachable")
        assert command.process.poll() is None
    assert event["reason"] == "connection refused"
    assert event["effect"].startswith("retrying")


def test_a_signal_ends_the_wait_for_zookeeper(own_zookeeper: ZooKeeperServer) -> None:
    own_zookeeper.kill()
    line = ("register", *SERVED, "--zookeeper", own_zookeeper.address, "--wait")
    with Command(*line, *AS_PROGRAM) as command:
        command.time_of("ready")
        command.signal(signal.SIGTERM)
        assert command.wait() == 7


def test_with_wait_it_registers_when_zookeeper_becomes_reachable(own_zookeeper: ZooKeeperServer) -> None:
    own_zookeeper.kill()
    line = ("register", *SERVED, "--session-timeout", "2s", "--zookeeper", own_zookeeper.address, "--wait")
    with Command(*line, *AS_PROGRAM) as command:
        command.time_of("ready")
        own_zookeeper.start()
        command.wait_logged("member_registered")
        command.signal(signal.SIGTERM)
        command.wait_logged("member_unregistered")
        command.signal(signal.SIGTERM)
        assert command.wait() == 7


def test_the_program_ends_in_time_if_zookeeper_does_not_respond(own_zookeeper: ZooKeeperServer) -> None:
    line = ("register", *SERVED, "--zookeeper", own_zookeeper.address)
    with Command(*line, *AS_PROGRAM) as command:
        command.time_of("ready")
        command.wait_logged("member_registered")
        own_zookeeper.pause()
        command.signal(signal.SIGTERM)
        command.wait_logged("unregistration_started")
        command.signal(signal.SIGTERM)
        assert command.wait(10.0) == 7
        assert command.events("unregistration_failed")
        own_zookeeper.resume()


@pytest.mark.parametrize("more", [(), ("--wait",)])
def test_without_permission_the_program_ends_and_is_not_registered(
    environment: dict[str, str], zk: Any, zk_root: str, more: tuple[str, ...]
) -> None:
    zk.create(f"{zk_root}/staging/web", makepath=True)
    zk.set_acls(f"{zk_root}/staging/web", [make_acl("world", "anyone", read=True, admin=True, delete=True)])
    with Command("register", *SERVED, *more, *AS_PROGRAM, environment=environment) as command:
        assert command.wait() == ExitStatus.FAILED
        assert f"cannot register in {zk_root}/staging/web: ZooKeeper denies it" in command.errors
        assert "zkdns: web.staging: cannot register" in command.errors.splitlines()[-1]
        assert command.events("program_exited")
    assert zk.get_children(f"{zk_root}/staging/web") == []
