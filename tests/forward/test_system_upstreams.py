"""The upstreams of a machine, from typical resolv.conf files and from its addresses."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.support.network import ip, new_network, wait_until_up
from zkdns.address import HostPort, UpstreamAddress
from zkdns.forward.system_upstreams import (
    NameServers,
    SystemUpstreams,
    choose,
    is_local,
    is_own,
    parse_upstreams,
)

NOTHING = "upstreams_missing"

# As systemd-resolved writes it for clients of its stub.
STUB = """\
# This is /run/systemd/resolve/stub-resolv.conf managed by man:systemd-resolved(8).
# Do not edit.

nameserver 127.0.0.53
options edns0 trust-ad
search corp.example
"""


def to(host: str, port: int = 53) -> UpstreamAddress:
    return UpstreamAddress(host, port)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", ()),
        (STUB, ("127.0.0.53",)),
        ("nameserver 192.0.2.1\nnameserver 192.0.2.2\n", ("192.0.2.1", "192.0.2.2")),
        (
            "".join(f"nameserver 192.0.2.{n}\n" for n in range(1, 6)),
            tuple(f"192.0.2.{n}" for n in range(1, 6)),
        ),
        ("nameserver 192.0.2.1\r\nnameserver\t192.0.2.2   # office\r\n", ("192.0.2.1", "192.0.2.2")),
        ("nameserver 192.0.2.1", ("192.0.2.1",)),
        ("nameserver 192.0.2.1\nnameserver 192.0.2.1\n", ("192.0.2.1",)),
        ("nameserver fe80::1%eth0\nnameserver 2001:DB8::1\n", ("fe80::1%eth0", "2001:db8::1")),
        (" nameserver 192.0.2.1\n#nameserver 192.0.2.2\n;nameserver 192.0.2.3\n", ()),
        ("nameservers 192.0.2.1\nNAMESERVER 192.0.2.2\n", ()),
        ("domain nameserver\noptions nameserver 192.0.2.1\n", ()),
    ],
)
def test_name_servers_of_resolv_conf(text: str, hosts: tuple[str, ...]) -> None:
    assert parse_upstreams(text) == (tuple(map(to, hosts)), ())


@pytest.mark.parametrize("options", ["use-vc", "edns0 use-vc\noptions trust-ad"])
def test_with_use_vc_queries_are_sent_over_tcp(options: str) -> None:
    servers, errors = parse_upstreams(
        f"nameserver 192.0.2.1\nnameserver tls://192.0.2.2\noptions {options}\n"
    )
    assert errors == ()
    assert servers == (
        UpstreamAddress("192.0.2.1", 53, tcp=True),
        UpstreamAddress("192.0.2.2", 853, "192.0.2.2"),
    )


def test_a_malformed_line_is_reported_and_the_others_are_used() -> None:
    text = (
        "nameserver\nnameserver dns.example\nnameserver 192.0.2.1\nnameserver 0.0.0.0\nnameserver "
        + "x" * 9999
    )
    servers, errors = parse_upstreams(text)
    assert servers == (to("192.0.2.1"),)
    assert [error.partition(":")[0] for error in errors] == ["line 1", "line 2", "line 4", "line 5"]
    assert "'dns.example' is not an address to forward to" in errors[1]
    assert all(len(error) < 300 for error in errors)


@given(st.text(st.characters()) | st.text(st.characters()).map("nameserver {}".format))
def test_any_text_is_accepted(text: str) -> None:
    parse_upstreams(text)


@pytest.mark.parametrize(
    ("named", "chosen", "source"),
    [
        ({"etc": ["192.0.2.1", "192.0.2.2"], "resolved": ["192.0.2.3"]}, ["192.0.2.1", "192.0.2.2"], "etc"),
        ({"etc": ["127.0.0.53"], "resolved": ["192.0.2.3"]}, ["192.0.2.3"], "resolved"),
        ({"etc": ["127.0.0.53", "192.0.2.1"], "resolved": ["192.0.2.3"]}, ["192.0.2.1"], "etc"),
        # resolv.conf names zkdns already, alone or before others, and systemd-resolved may forward to zkdns.
        ({"etc": ["127.0.0.1"], "resolved": ["127.0.0.1", "192.0.2.3"]}, ["192.0.2.3"], "resolved"),
        ({"etc": ["127.0.0.1", "192.0.2.1"], "resolved": ["192.0.2.3"]}, ["192.0.2.1"], "etc"),
        ({"etc": ["127.0.0.1"], "resolved": [], "manager": ["192.0.2.4"]}, ["192.0.2.4"], "manager"),
        # Without another server, the stub is used.
        ({"etc": ["127.0.0.53"], "resolved": []}, ["127.0.0.53"], "etc"),
        ({"etc": ["127.0.0.53"], "resolved": ["127.0.0.1"]}, ["127.0.0.53"], "etc"),
        ({"etc": ["127.0.0.1"], "resolved": []}, [], None),
        ({"etc": [], "resolved": []}, [], None),
        ({}, [], None),
    ],
)
def test_the_first_file_with_another_server_is_used(
    named: dict[str, list[str]], chosen: list[str], source: str | None
) -> None:
    servers = {file: [to(host) for host in hosts] for file, hosts in named.items()}
    found = choose(servers, lambda server: server.host == "127.0.0.1")
    assert found == NameServers(tuple(map(to, chosen)), source)


# -- own addresses ----------------------------------------------------------------------------------------


def own_address() -> str:
    """A non-loopback address of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 53))
        except OSError:
            pytest.skip("this machine has only loopback addresses")
        return str(probe.getsockname()[0])


def test_an_address_of_this_machine_is_local() -> None:
    assert is_local(own_address())


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("127.0.0.1", True),
        ("127.0.0.53", True),
        ("::1", True),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
        ("fe80::1%nowhere", False),
    ],
)
def test_local_and_remote_addresses(host: str, is_ours: bool) -> None:
    assert is_local(host) is is_ours


def test_a_link_local_address_is_local_only_on_its_own_link() -> None:
    with new_network() as network, network.entered():
        ip("link add here type veth peer name there")
        for link, address in (("here", "fe80::1"), ("there", "fe80::2")):
            ip(f"address add {address}/64 dev {link} nodad")
            ip(f"link set {link} up")
        wait_until_up("here", "there")
        assert is_local("fe80::1%here")
        assert not is_local("fe80::1%there")
        assert is_own(to("fe80::2%there"), [HostPort("::", 53)])
        assert is_own(to("fe80::2%there"), [HostPort("fe80::2%there", 53)])
        assert not is_own(to("fe80::2%here"), [HostPort("fe80::2%there", 53)])


def test_a_wildcard_covers_each_address_of_the_machine() -> None:
    everywhere = [HostPort("0.0.0.0", 53)]
    own = own_address()
    assert is_own(to(own), everywhere)
    assert not is_own(to(own, 5353), everywhere)
    assert not is_own(to(own), [HostPort("127.0.0.1", 53), HostPort("::", 53)])
    assert is_own(to(own), [HostPort("127.0.0.1", 53), HostPort(own, 53)])


@pytest.mark.parametrize(
    ("server", "listening", "is_ours"),
    [
        (to("127.0.0.1"), HostPort("127.0.0.1", 53), True),
        (to("127.0.0.1"), HostPort("127.0.0.1", 5300), False),
        (to("127.0.0.53"), HostPort("127.0.0.1", 53), False),
        (to("127.0.0.53"), HostPort("0.0.0.0", 53), True),
        (to("::1"), HostPort("0.0.0.0", 53), False),
        (to("::1"), HostPort("::", 53), True),
        (to("127.0.0.1"), HostPort("::", 53), False),
        (to("192.0.2.1"), HostPort("0.0.0.0", 53), False),
        (UpstreamAddress("127.0.0.1", 853, "dns.example"), HostPort("127.0.0.1", 853), True),
    ],
)
def test_an_upstream_at_a_listening_address_is_the_server_itself(
    server: UpstreamAddress, listening: HostPort, is_ours: bool
) -> None:
    assert is_own(server, [listening]) is is_ours


# -- files that change ------------------------------------------------------------------------------------


class Machine:
    """The resolv.conf files of a machine."""

    def __init__(self, directory: Path) -> None:
        self.etc, self.resolved = directory / "resolv.conf", directory / "resolved.conf"

    def follow(self, *, is_silent: bool = False) -> SystemUpstreams:
        files = [self.etc, self.resolved]
        return SystemUpstreams([HostPort("127.0.0.1", 53)], files, is_silent=is_silent)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def replace(file: Path, text: str) -> None:
    """Replace a file by a rename."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def test_a_silent_follower_logs_nothing(machine: Machine) -> None:
    for text in ("nameserver 192.0.2.1\nnameserver none\n", "nameserver 127.0.0.1\n"):
        machine.etc.write_text(text)
        with capture_logs() as logs:
            assert bool(machine.follow(is_silent=True).current.servers) == ("192" in text)
        assert logs == []


def test_the_files_are_read_at_once_and_the_result_is_logged(machine: Machine) -> None:
    machine.etc.write_text(STUB)
    machine.resolved.write_text("nameserver 192.0.2.1\nnameserver 127.0.0.1\nnameserver 2001:db8::1\n")
    with capture_logs() as logs:
        followed = machine.follow()
    assert followed.current == NameServers((to("192.0.2.1"), to("2001:db8::1")), str(machine.resolved))
    assert logs == [
        {
            "event": "upstreams_chosen",
            "upstreams": ["192.0.2.1:53", "[2001:db8::1]:53"],
            "source": str(machine.resolved),
            "log_level": "info",
        }
    ]


@pytest.mark.parametrize("write", [Path.write_text, replace])
def test_a_change_is_read_once_it_is_the_same_in_two_polls(
    machine: Machine, write: Callable[[Path, str], object]
) -> None:
    machine.etc.write_text("nameserver 192.0.2.1\n")
    followed = machine.follow()
    assert not followed.poll()
    write(machine.etc, "")
    assert not followed.poll()
    write(machine.etc, "nameserver 192.0.2.22\n")
    assert not followed.poll()
    assert followed.current.servers == (to("192.0.2.1"),)
    assert followed.poll()
    assert followed.current.servers == (to("192.0.2.22"),)
    assert not followed.poll()


def test_a_change_with_the_same_name_servers_is_ignored(machine: Machine) -> None:
    machine.etc.write_text("nameserver 192.0.2.1\n")
    followed = machine.follow()
    machine.etc.write_text("search example\nnameserver 192.0.2.1\n")
    with capture_logs() as logs:
        assert [followed.poll(), followed.poll(), followed.poll()] == [False] * 3
    assert logs == []


def test_another_target_of_a_link_is_a_change(machine: Machine, tmp_path: Path) -> None:
    for name, host in (("a", "192.0.2.1"), ("b", "192.0.2.2")):
        (tmp_path / name).write_text(f"nameserver {host}\n")
        os.utime(tmp_path / name, (1, 1))
    machine.etc.symlink_to("a")
    followed = machine.follow()
    machine.etc.unlink()
    machine.etc.symlink_to("b")
    assert [followed.poll(), followed.poll()] == [False, True]
    assert followed.current.servers == (to("192.0.2.2"),)


def test_with_resolv_conf_naming_zkdns_the_upstreams_of_resolved_are_used(machine: Machine) -> None:
    machine.etc.write_text("nameserver 192.0.2.1\n")
    machine.resolved.write_text("nameserver 192.0.2.2\n")
    followed = machine.follow()
    replace(machine.etc, "nameserver 127.0.0.1\n")
    assert [followed.poll(), followed.poll()] == [False, True]
    assert followed.current == NameServers((to("192.0.2.2"),), str(machine.resolved))


def test_a_lack_of_upstreams_is_logged_once_until_there_are_some(machine: Machine) -> None:
    machine.etc.write_text("nameserver 127.0.0.1\n")
    with capture_logs() as logs:
        followed = machine.follow()
        machine.etc.write_text("# none\n")
        assert [followed.poll(), followed.poll(), followed.poll()] == [False] * 3
    assert followed.current == NameServers()
    (entry,) = logs
    assert entry["event"] == NOTHING
    assert (entry["paths"], entry["own_addresses"]) == (
        [str(machine.etc), str(machine.resolved)],
        ["127.0.0.1:53"],
    )
    replace(machine.resolved, "nameserver 192.0.2.1\n")
    assert [followed.poll(), followed.poll()] == [False, True]
    assert followed.current.servers == (to("192.0.2.1"),)
    with capture_logs() as logs:
        machine.resolved.unlink()
        assert [followed.poll(), followed.poll()] == [False, True]
    assert [entry["event"] for entry in logs] == [NOTHING]
    assert followed.current == NameServers()


def test_unreadable_files_are_logged_and_ignored(machine: Machine, tmp_path: Path) -> None:
    os.mkfifo(machine.etc)
    machine.resolved.write_bytes(b"nameserver 192.0.2.1\nnameserver \xff\n# \xff\n" + b"x" * (1 << 20))
    with capture_logs() as logs:
        followed = machine.follow()
    assert followed.current == NameServers((to("192.0.2.1"),), str(machine.resolved))
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("nameserver_skipped", "warning"),
        ("upstreams_chosen", "info"),
    ]
    assert logs[0]["path"] == str(machine.resolved)
    assert logs[0]["reason"].startswith("line 2: ")
    machine.etc.unlink()
    machine.etc.symlink_to(tmp_path)  # a directory
    assert [followed.poll(), followed.poll()] == [False, False]
