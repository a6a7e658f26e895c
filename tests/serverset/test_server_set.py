"""ServerSet: accepted and rejected arguments, and connecting on first use."""

import socket
import threading
from typing import Any

import pytest
from kazoo.client import KazooClient

from zkdns import LOCAL, PRODUCTION, STAGING, TEST, BadValueError, ServerSet
from zkdns.serverset.member import Member, decode_member, encode_member
from zkdns.serverset.server_set import make_member

pytestmark = pytest.mark.usefixtures("leaves_nothing")


def test_it_connects_on_first_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        threads = threading.active_count()
        web = ServerSet("test", "web", f"127.0.0.1:{server.getsockname()[1]}")
        assert repr(web) == f"ServerSet('test', 'web', '127.0.0.1:{server.getsockname()[1]}')"
        assert threading.active_count() == threads
        with pytest.raises(BlockingIOError):
            server.accept()


def test_the_environments_are_those_of_go_serversets() -> None:
    assert (LOCAL, STAGING, PRODUCTION, TEST) == ("local", "staging", "prod", "test")


@pytest.mark.parametrize(
    ("environment", "service", "options", "path"),
    [
        ("prod", "web", {}, "/discovery/prod/web"),
        ("elsewhere", "web.api-2", {}, "/discovery/elsewhere/web.api-2"),
        ("prod", "wéb", {}, "/discovery/prod/wéb"),
        ("prod", "web", {"namespace": "/discovery/{service}/{environment}"}, "/discovery/web/prod"),
        ("prod", "web", {"namespace": "/{environment}/{service}"}, "/prod/web"),
        ("prod", "web", {"namespace": "/aurora/www/{environment}/{job}"}, "/aurora/www/prod/web"),
        ("prod", "web", {"namespace": "/services/{service}"}, "/services/web"),
    ],
)
def test_the_path_follows_the_namespace(
    environment: str, service: str, options: dict[str, str], path: str
) -> None:
    assert ServerSet(environment, service, **options).path == path  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (("prod", "web/api"), {}, "service is 'web/api'; a znode's name is not empty and contains no slash"),
        (("prod", ""), {}, "service is ''; a znode's name is not empty and contains no slash"),
        (("", "web"), {}, "environment is ''; a znode's name is not empty and contains no slash"),
        (("..", "web"), {}, "environment is '..'; a znode's name is not empty and contains no slash"),
        (
            ("prod", "a\0b"),
            {},
            "'/discovery/prod/a\\x00b' is not a path: ZooKeeper rejects the character '\\x00'",
        ),
        (("prod", "w"), {"namespace": "/a"}, "'/a' does not end in a placeholder, such as "),
        (("prod", "w"), {"namespace": "/{role}/{environment}/{service}"}, "role is None; a znode's name "),
        (("prod", "w", ""), {}, "'' has no usable host; write an IP address or a host name before the port"),
        (("prod", "w", "zk1:2181,"), {}, "'' has no usable host; write "),
        (("prod", "w", "zk1:port"), {}, "'zk1:port' has the port 'port'; a port is 1 to 65535"),
        (("prod", "w", "zk1:0"), {}, "'zk1:0' has the port '0'; a port is 1 to 65535"),
        (("prod", "w", "10.0.0:1"), {}, "'10.0.0:1' has the host '10.0.0', which is not an IPv4 address"),
        (("prod", "w", "zk1:1/a//b"), {}, "'/a//b' is not a path: "),
        (
            ("prod", "w", "zk1:1/a,zk2:1/a"),
            {},
            "'zk1:1/a,zk2:1/a' has a server after the chroot; write the chroot once, after the last server",
        ),
        (("prod", "w", "zk1/a,zk2/a"), {}, "'zk1/a,zk2/a' has a server after the chroot; "),
        (("prod", "w", ["zk1:1/a", "zk2:1"]), {}, "'zk1:1/a,zk2:1' has a server after the chroot; "),
        (("prod", "w", ["zk1:1/a", "zk2:1/a"]), {}, "'zk1:1/a,zk2:1/a' has a server after the chroot; "),
        (
            ("prod", "w", []),
            {},
            "[] does not name ZooKeeper servers; write 'host:port,host:port/chroot', or ",
        ),
        (("prod", "w", None), {}, "None does not name ZooKeeper servers; write "),
        (("prod", "w", b"zk1:1"), {}, "b'zk1:1' does not name ZooKeeper servers; write "),
        (("prod", "w", {"zk1:1"}), {}, "{'zk1:1'} does not name ZooKeeper servers; write "),
        (("prod", "w", ["zk1:1", 2]), {}, "2 is not one ZooKeeper server; write "),
        (("prod", "w", ["zk1:1,zk2:1"]), {}, "'zk1:1,zk2:1' is not one ZooKeeper server; write "),
        (("prod", "w", ["zk1:1", ""]), {}, "'' has no usable host; write "),
        (("prod", "w", ["zk1", "zk1:2181"]), {}, "'zk1,zk1:2181' names zk1:2181 twice"),
        (("prod", "w", ["zk1:1", "zk2:0/a"]), {}, "'zk2:0' has the port '0'; a port is 1 to 65535"),
        (("prod", "w", ["zk1:1", "zk2:1/a//b"]), {}, "'/a//b' is not a path: "),
        (("prod", 1), {}, "service is 1; a znode's name is not empty and contains no slash"),
        (("prod", "w"), {"namespace": None}, "namespace is None; write a template such as '/discovery/{en"),
        (("prod", "a/b"), {"namespace": "/{}/{}".format}, "service is 'a/b'; a znode's name "),
        (("", "w"), {"namespace": "/{}/{}".format}, "environment is ''; a znode's name "),
        (
            ("prod", "w"),
            {"namespace": lambda _environment, _service: None},
            "namespace('prod', 'w') is None, not the path of a set, such as '/discovery/prod/web'",
        ),
        (("prod", "w"), {"namespace": lambda *_: "/"}, "namespace('prod', 'w') is '/', not the path of a "),
        (
            ("prod", "w"),
            {"namespace": "{}/{}".format},
            "namespace('prod', 'w'): 'prod/w' is not a path: a path starts with a slash",
        ),
        (("prod", "w"), {"session_timeout": 0}, "session_timeout is 0; it is a time in seconds"),
        (("prod", "w"), {"session_timeout": "5"}, "session_timeout is '5'; it is a time in seconds"),
        (("prod", "w"), {"session_timeout": float("nan")}, "session_timeout is nan; it is a time in seconds"),
    ],
)
def test_invalid_arguments_are_rejected(
    arguments: tuple[str, ...], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BadValueError) as caught:
        ServerSet(*arguments, **options)
    assert str(caught.value).startswith(sentence)


def test_the_path_may_be_the_result_of_a_function() -> None:
    web = ServerSet("prod", "web", namespace=lambda environment, service: f"/teams/{service}-{environment}")
    assert web.path == "/teams/web-prod"


def test_an_exception_of_the_path_function_is_not_changed() -> None:
    def fail(_environment: str, _service: str) -> str:
        raise KeyError("no team")

    with pytest.raises(KeyError, match="no team"):
        ServerSet("prod", "web", namespace=fail)


@pytest.mark.parametrize(
    ("zookeeper", "hosts", "shown"),
    [
        ("zk1,zk2:1/x", ("zk1:2181", "zk2:1"), "zk1:2181,zk2:1/x"),
        (["zk1", "zk2:1"], ("zk1:2181", "zk2:1"), "zk1:2181,zk2:1"),
        (["zk1:1", " [::1]:2 "], ("zk1:1", "[::1]:2"), "zk1:1,[::1]:2"),
        (("zk1:1", "zk2:1/a/b"), ("zk1:1", "zk2:1"), "zk1:1,zk2:1/a/b"),
        (["zk1:1/a"], ("zk1:1",), "zk1:1/a"),
        ("zk1:1/a,b", ("zk1:1",), "zk1:1/a,b"),  # a legal name of a znode
    ],
)
def test_the_zookeeper_servers_are_text_or_a_list(
    zookeeper: str | list[str], hosts: tuple[str, ...], shown: str
) -> None:
    web = ServerSet("prod", "web", zookeeper)
    assert web.hosts == hosts
    assert repr(web) == f"ServerSet('prod', 'web', {shown!r})"


def test_the_servers_are_those_of_the_callers_client() -> None:
    client = KazooClient("127.0.0.1:1,127.0.0.1:2/x")
    assert ServerSet("prod", "web", client=client).hosts == ("127.0.0.1:1", "127.0.0.1:2")
    client.close()


def test_zookeepers_port_is_optional() -> None:
    assert repr(ServerSet("a", "b", "zk1,zk2:1,::1/x")).endswith("'zk1:2181,zk2:1,[::1]:2181/x')")


@pytest.mark.parametrize(
    ("host", "port", "options", "sentence"),
    [
        ("", 1, {}, "host '' is neither an IP address nor a host name"),
        ("a b", 1, {}, "host 'a b' is neither"),
        ("10.0.0", 1, {}, "host '10.0.0' is neither"),
        ("fe80::1%eth0", 1, {}, "host 'fe80::1%eth0' has a scope, which no DNS record can carry"),
        ("a:80", 1, {}, "host 'a:80' is neither"),
        ("é", 1, {}, "host 'é' is neither"),
        (None, 1, {}, "host None is neither"),
        (b"a", 1, {}, "host b'a' is neither"),
        ("a" * 64, 1, {}, None),
        ("a", -1, {}, "port -1 is not valid; a port is 0 to 65535"),
        ("a", 65536, {}, "port 65536 is not valid"),
        ("a", "80", {}, "port '80' is not valid"),
        ("a", 80.0, {}, "port 80.0 is not valid"),
        ("a", True, {}, "port True is not valid"),
        ("a", 0, {}, "port 0 requires additional endpoints, and there are none"),
        ("a", 1, {"additional": {"": 1}}, "an additional endpoint has the name ''; write a non-empty text"),
        ("a", 1, {"additional": {"b": 0}}, "port 0 is not valid; a port is 1 to 65535"),
        ("a", 1, {"additional": {"b": "c"}}, "'c' has no port; write HOST:PORT"),
        ("a", 1, {"additional": {"b": ("c",)}}, "the additional endpoint 'b' is ('c',); write (host, port)"),
        ("a", 1, {"additional": {"b": ("c d", 1)}}, "host 'c d' is neither"),
        ("a", 1, {"additional": {"b": None}}, "port None is not valid"),
        ("a", 1, {"shard": 2**31}, "shard 2147483648 is not a 32-bit integer"),
        ("a", 1, {"shard": True}, "shard True is not a 32-bit integer"),
        ("a", 1, {"shard": "1"}, "shard '1' is not a 32-bit integer"),
        ("a", 1, {"metadata": {"k": 1}}, "metadata 'k' is 1; keys and values are text"),
        ("a", 1, {"metadata": {1: "v"}}, "metadata 1 is 'v'; keys and values are text"),
        ("a", 1, {"metadata": {"k": "\ud800"}}, "'\\ud800' cannot be encoded: it is not valid Unicode"),
        ("a", 1, {"additional": {"\ud800": 1}}, "'\\ud800' cannot be encoded: it is not valid Unicode"),
    ],
)
def test_invalid_members_are_rejected(
    host: Any, port: Any, options: dict[str, Any], sentence: str | None
) -> None:
    with pytest.raises(BadValueError) as caught:
        ServerSet("prod", "web").register(host, port, **options)
    assert sentence is None or str(caught.value).startswith(sentence)


def test_every_port_and_shard_is_accepted() -> None:
    for port in (1, 65535):
        for shard in (-(2**31), 0, 2**31 - 1):
            member = make_member("a", port, shard=shard)
            assert decode_member("", encode_member(member)) == member


def test_hosts_are_written_in_canonical_form() -> None:
    for written, host in [("[::1]", "::1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("web.example.", "web.example")]:
        member: Member = make_member(written, 1)
        assert member.service is not None
        assert member.service.host == host
