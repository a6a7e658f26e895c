"""`zkdns lookup` with a zkdns server, and with servers that misbehave."""

import contextlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from tests.admin.helpers import STATUS, FakeBackend, serving, serving_at
from tests.support.forked_command import Ended, run_forked
from tests.support.loopback import paired_sockets
from tests.support.server import ZkdnsServer
from tests.support.web import closed_udp_port
from zkdns.address import HostPort
from zkdns.cli import main

pytestmark = pytest.mark.processes

_MANY = 60


@pytest.fixture(scope="module")
def demo() -> Iterator[ZkdnsServer]:
    with ZkdnsServer("--demo", "--listen", "127.0.0.1:0", "--listen", "[::1]:0") as server:
        yield server.wait_ready()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZkdnsServer]:
    """One service with more members than fit into a UDP response."""
    fixed = tmp_path_factory.mktemp("fixed") / "services.toml"
    members = [f"a-host-name-of-some-length-{number:03d}.example.com:80" for number in range(_MANY)]
    fixed.write_text(f'[services."{"a" * 60}.staging"]\nmembers = {json.dumps(members)}\n')
    with ZkdnsServer("--static", str(fixed)) as server:
        yield server.wait_ready()


def lookup(*arguments: str, **environment: str) -> Ended:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ZKDNS_")}
    return run_forked("lookup", *arguments, environment={**kept, **environment})


def server_of(server: ZkdnsServer) -> str:
    return f"127.0.0.1:{server.port}"


def as_json(*arguments: str) -> dict[str, Any]:
    ended = lookup(*arguments, "--json")
    assert ended.errors == ""
    (line,) = ended.output.splitlines()
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


# -- responses ----------------------------------------------------------------------------------------------


def test_the_response_is_printed_as_text(demo: ZkdnsServer) -> None:
    ended = lookup("api.v2.staging.discovery", "SRV", "--dns", server_of(demo))
    assert (ended.status, ended.errors) == (0, "")
    first, *lines = ended.output.splitlines()
    assert re.fullmatch(
        rf"api\.v2\.staging\.discovery\. SRV: NOERROR, 2 records, from {server_of(demo)} in \d+\.\d ms", first
    )
    assert sorted(lines[:2]) == [
        "api.v2.staging.discovery.  5  SRV  0 100 8000 m0.api.v2.staging.discovery.",
        "api.v2.staging.discovery.  5  SRV  0 100 8000 m1.api.v2.staging.discovery.",
    ]
    assert lines[2:4] == ["", "additional:"]
    assert sorted(lines[4:]) == [
        "m0.api.v2.staging.discovery.  5  A     192.0.2.11",
        "m1.api.v2.staging.discovery.  5  AAAA  2001:db8::11",
    ]


def test_json_is_one_object_with_the_whole_response(demo: ZkdnsServer) -> None:
    found = as_json("--dns", server_of(demo), "m0.web.staging.discovery", "a")
    assert found.pop("milliseconds") > 0
    assert found == {
        "name": "m0.web.staging.discovery.",
        "type": "A",
        "server": server_of(demo),
        "rcode": "NOERROR",
        "flags": ["aa", "rd"],
        "answers": [{"name": "m0.web.staging.discovery.", "ttl": 5, "type": "A", "data": "192.0.2.1"}],
        "authority": [],
        "additional": [],
        "errors": [],
        "asked": "m0.web.staging.discovery",
        "tried": [],
        "nearest": [],
        "is_empty": False,
    }


@pytest.mark.parametrize(
    ("name", "qtype", "status", "rcode"),
    [
        ("web.staging.discovery", "A", 0, "NOERROR"),
        ("web.staging.discovery.", "aaaa", 1, "NOERROR"),
        ("web.staging.discovery", "TYPE65280", 1, "NOERROR"),
        ("web.staging.discovery", "type1", 0, "NOERROR"),
        ("discovery", "SOA", 0, "NOERROR"),
        ("nothing.staging.discovery", "A", 1, "NXDOMAIN"),
        ("example.com", "A", 1, "REFUSED"),
        (".", "NS", 1, "REFUSED"),
        (r"a\.b.staging.discovery", "A", 1, "NXDOMAIN"),
    ],
)
def test_the_exit_status_depends_on_the_records(
    demo: ZkdnsServer, name: str, qtype: str, status: int, rcode: str
) -> None:
    ended = lookup(name, qtype, "--dns", server_of(demo))
    assert (ended.status, ended.errors) == (status, "")
    assert f": {rcode}, " in ended.output.splitlines()[0]
    assert (", no record, " in ended.output) == (status == 1)


def test_the_soa_and_extended_errors_of_a_negative_response_are_printed(demo: ZkdnsServer) -> None:
    output = lookup("nothing.staging.discovery", "--dns", server_of(demo)).output
    assert "\nauthority:\ndiscovery.  2  SOA  " in output
    assert "extended DNS error 20: not authoritative\n" in lookup("x.org", "--dns", server_of(demo)).output


def test_a_truncated_response_is_fetched_over_tcp(many: ZkdnsServer) -> None:
    found = as_json("--dns", server_of(many), f"{'a' * 60}.staging.discovery", "SRV")
    assert len(found["answers"]) == _MANY
    assert "tc" not in found["flags"]


def test_an_ipv6_server(demo: ZkdnsServer) -> None:
    (_, port) = demo.addresses[1]
    ended = lookup("web.staging.discovery", "--dns", f"[::1]:{port}")
    assert ended.status == 0
    assert f"from [::1]:{port} in" in ended.output


# -- output -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["20", "80"])
def test_in_a_pipe_nothing_is_coloured_wrapped_cut_or_padded(many: ZkdnsServer, columns: str) -> None:
    name = f"{'a' * 60}.staging.discovery"
    ended = lookup(name, "SRV", "--dns", server_of(many), COLUMNS=columns, TERM="xterm-256color")
    assert "\x1b" not in ended.output
    lines = ended.output.splitlines()
    assert len(lines) == 1 + _MANY
    assert all(line.startswith(f"{name}.  5  SRV  0 100 80 a-host-name") for line in lines[1:])
    assert all(line.endswith(".example.com.") for line in lines[1:])


# -- the server ---------------------------------------------------------------------------------------------


def test_the_server_that_the_api_reports_is_queried(demo: ZkdnsServer, tmp_path: Path) -> None:
    config = tmp_path / "zkdns.toml"
    config.write_text(f'[admin]\nsocket = "{demo.api}"\n')
    for arguments, variables in (
        (("--server", demo.api), {}),
        (("--server", demo.admin), {}),
        (("--config", str(config)), {}),
        ((), {"ZKDNS_CONFIG": str(config)}),
        ((), {"ZKDNS_ADMIN_SOCKET": demo.api}),
        ((), {"ZKDNS_SERVER": f"unix:{demo.api}", "ZKDNS_ADMIN_SOCKET": "/nowhere"}),
    ):
        ended = lookup("web.staging.discovery", *arguments, **variables)
        assert (ended.status, ended.errors) == (0, "")
        assert f"from {server_of(demo)} in" in ended.output


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "[::]"])
def test_a_wildcard_is_queried_at_loopback(wildcard: str) -> None:
    with ZkdnsServer("--demo", "--listen", f"{wildcard}:0") as server:
        server.wait_ready()
        loopback = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}[wildcard]
        found = lookup("web.staging.discovery", "--server", server.api).output
        assert f"from {loopback}:{server.port} in" in found


@pytest.mark.parametrize(
    ("listening", "found"),
    [
        (["0.0.0.0:1053"], "127.0.0.2:1053"),
        (["127.0.0.1:53", "192.0.2.1:53"], "192.0.2.1:53"),
        (["127.0.0.1:53", "[::1]:53"], None),
    ],
)
def test_a_remote_server_is_queried_at_an_address_of_its_network(
    listening: list[str], found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = msgspec.structs.replace(STATUS, listening=tuple(listening))
    monkeypatch.setattr("zkdns.cli.lookup._is_loopback", lambda host: host in {"127.0.0.1", "::1"})
    with serving(FakeBackend(current=status), HostPort("127.0.0.2", 0)) as at:
        result = CliRunner().invoke(main, ["lookup", "x", "--timeout", "0.01", "--server", f"http://{at}"])
    assert result.exit_code == 3
    if found is None:
        assert "listens only at addresses of its own machine: 127.0.0.1:53, [::1]:53" in result.output
    else:
        assert found in result.output


@pytest.mark.parametrize(
    ("listening", "error"),
    [((), "listens only at addresses of its own machine: none"), (("x y",), "reports an invalid address: ")],
)
def test_a_server_without_a_usable_address_is_an_error(
    listening: tuple[str, ...], error: str, short_path: Path
) -> None:
    status = msgspec.structs.replace(STATUS, listening=listening)
    with serving_at(short_path / "api", FakeBackend(current=status)):
        ended = lookup("web", "--server", str(short_path / "api"))
    assert (ended.status, ended.output) == (3, "")
    assert error in ended.errors
    assert "Traceback" not in ended.errors


def test_a_malformed_static_file_does_not_prevent_a_lookup(demo: ZkdnsServer, tmp_path: Path) -> None:
    """The server keeps the previous services, and they are still to be looked up."""
    broken = tmp_path / "services.toml"
    broken.write_text("[services")
    ended = lookup("web.staging.discovery", ZKDNS_ADMIN_SOCKET=demo.api, ZKDNS_STATIC=str(broken))
    assert (ended.status, ended.errors) == (0, "")


# -- usage errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["web..discovery"], "'web..discovery' is not a domain name: it has an empty label"),
        (["a" * 64], "a label has 64 bytes, at most 63 are allowed"),
        ([r"web\999.discovery"], "a backslash is followed by"),
        (["web", "NOTYPE"], "'NOTYPE' is not a record type; write A, AAAA, SRV, TXT, …, or TYPE257"),
        (["web", "TYPE65536"], "'TYPE65536' is not a record type"),
        (["web", "TYPE"], "'TYPE' is not a record type"),
        (["web", "TYPE²"], "'TYPE²' is not a record type"),
        (["web", "TYPE-1"], "'TYPE-1' is not a record type"),
        (["web", "__class__"], "is not a record type"),
        (["web", "--dns", "127.0.0.1:99999"], "has the port '99999'"),
        (["web", "--dns", "a b"], "has no usable host"),
        (["web", "--server", "127.0.0.1:53"], "'127.0.0.1:53' is neither a URL nor a path; write http://"),
        (["web", "--timeout", "0"], "0"),
        (["web", "--timeout", "nan"], "is 'nan'; write a duration from 10ms to 1h"),
        (["web", "--timeout", "inf"], "inf"),
        ([], "there is no name; write NAME, such as web.staging, or -x ADDRESS"),
    ],
)
def test_usage_errors(arguments: list[str], error: str) -> None:
    ended = lookup(*arguments, ZKDNS_ADMIN_SOCKET="/nowhere/api")
    assert (ended.status, ended.output) == (2, "")
    assert error in ended.errors
    assert "Traceback" not in ended.errors


def test_errors_of_the_configuration_are_printed() -> None:
    ended = lookup("web", ZKDNS_LISTEN="nowhere", ZKDNS_TTL="-1")
    assert ended.status == 2
    assert [line.split(":")[1] for line in ended.errors.splitlines()] == [" ZKDNS_LISTEN", " ZKDNS_TTL"]


def test_with_a_dns_address_an_invalid_configuration_is_no_obstacle(demo: ZkdnsServer) -> None:
    """The health check of the container image: the server may run with an earlier version of the file."""
    ended = lookup("web.staging.discovery", "--dns", server_of(demo), ZKDNS_TTL="-1")
    assert (ended.status, ended.errors) == (0, "")


def test_without_a_server_the_exit_status_is_3() -> None:
    ended = lookup("web", ZKDNS_ADMIN_SOCKET="/nowhere/api")
    assert ended.status == 3
    assert ended.errors.startswith(
        "zkdns: no server listens at /nowhere/api (no such file or directory); start one"
    )


# -- no response --------------------------------------------------------------------------------------------

UNREADABLE = "sent a malformed response"
CLOSED = "closed the connection before the end of the response"

Reply = Callable[[bytes], bytes]


@contextlib.contextmanager
def odd_server(udp: Reply, tcp: Reply = lambda query: query) -> Iterator[str]:
    """A server with these replies; over TCP it closes the connection after its reply."""
    datagrams, listener = paired_sockets()
    with datagrams, listener:
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                query, client = datagrams.recvfrom(65535)
                datagrams.sendto(udp(query), client)
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(tcp(connection.recv(65535)[2:]))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for sock in (datagrams, listener):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)  # wakes the thread
            thread.join()


def always(reply: bytes) -> Reply:
    return lambda _: reply


def truncated(query: bytes) -> bytes:
    return query[:2] + b"\x83\x00" + query[4:]


@pytest.mark.parametrize(
    ("udp", "tcp", "error"),
    [
        (always(b"garbage"), None, UNREADABLE),
        (always(b""), None, UNREADABLE),
        (lambda query: b"\0\0" + truncated(query)[2:], None, "sent a response to another query"),
        (lambda query: query, None, "sent a response to another query"),
        (truncated, always(b""), CLOSED),
        (truncated, always(b"\0"), CLOSED),
        (truncated, always(b"\xff\xff12345678901234567890"), CLOSED),
        (truncated, always(b"\0\x07garbage"), UNREADABLE),
    ],
)
def test_malformed_responses(udp: Reply, tcp: Reply | None, error: str) -> None:
    with odd_server(udp, tcp or (lambda query: query)) as server:
        ended = lookup("web.staging.discovery", "--dns", server)
    assert (ended.status, ended.output) == (3, "")
    assert ended.errors.startswith(f"zkdns: {server} {error}")
    assert len(ended.errors.splitlines()) == 1


def test_a_silent_server_is_an_error_after_the_timeout() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{silent.getsockname()[1]}"
        ended = lookup("web", "--dns", server, "--timeout", "0.2")
    assert ended.status == 3
    assert ended.errors == f"zkdns: {server} did not respond within 0.2 s; does zkdns run there?\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_closed_port_is_an_error_at_once(host: str) -> None:
    with closed_udp_port(host.strip("[]")) as port:
        server = f"{host}:{port}"
        ended = lookup("web", "--dns", server, "--timeout", "20")
    assert ended.status == 3
    assert ended.errors == f"zkdns: {server} cannot be reached: connection refused; does zkdns run there?\n"


def test_an_unknown_host_name_of_a_server_is_an_error() -> None:
    ended = lookup("web", "--dns", "nowhere.invalid:53")
    assert ended.status == 3
    assert ended.errors.startswith("zkdns: nowhere.invalid:53 cannot be reached: ")
