"""The causes why ZooKeeper cannot be reached."""

import re
import socket

import pytest
from kazoo.client import KazooClient

from tests.support.loopback import free_port
from zkdns import ServerSet, UnreachableError
from zkdns.serverset.reachability import describe_failures


@pytest.fixture
def refusing() -> str:
    """An address that refuses connections."""
    return f"127.0.0.1:{free_port()}"


def test_one_server_is_described_by_its_cause(refusing: str) -> None:
    assert describe_failures(refusing) == "connection refused"
    assert describe_failures(f"{refusing}/chroot") == "connection refused"
    assert describe_failures("nosuchhost.invalid") == "no such host"


def test_each_of_several_servers_has_its_cause(refusing: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        accepting = f"127.0.0.1:{silent.getsockname()[1]}"
        found = describe_failures(f"nosuchhost.invalid:2181,{refusing},{accepting}/chroot")
    assert found == (
        f"nosuchhost.invalid:2181: no such host; {refusing}: connection refused; {accepting}: it accepts "
        "connections, but starts no session: it is starting, has no quorum, or requires TLS or other "
        "credentials"
    )


@pytest.mark.parametrize("call", ["register", "watch"])
def test_the_errors_of_the_library_name_the_cause(call: str) -> None:
    web = ServerSet("test", "web", "nosuchhost.invalid:2181", session_timeout=2.0)
    with pytest.raises(
        UnreachableError,
        match=re.escape("ZooKeeper at nosuchhost.invalid:2181 cannot be reached: no such host"),
    ):
        web.register("a", 1, timeout=0.3) if call == "register" else web.watch(timeout=0.3)


def test_a_callers_client_may_use_ipv6() -> None:
    client = KazooClient("[::1]:1")
    web = ServerSet("test", "web", client=client, session_timeout=2.0)
    with pytest.raises(UnreachableError, match=r"ZooKeeper at \[::1\]:1 cannot be reached: "):
        web.watch(timeout=0.3)
