"""Zone files are valid for any data of members, which every program with access to ZooKeeper can write."""

from __future__ import annotations

import subprocess

import dns.name
import dns.zone
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bench.processes import find_program
from tests.dns.helpers import Server, ask, member
from tests.dns.test_zonefile import ZONE, written
from zkdns.errors import BadValueError
from zkdns.names import check_name
from zkdns.serverset.member import Endpoint, Member

_PARTS = (
    *("a", "..", ".", "-", "_", "*", "@", "$INCLUDE", '"', "\\", ";", "(", "\n", "\r", "\t", "\0", "\x1b[2J"),
    *("\u2028", "\x85", "é", " ", "x" * 25, "x" * 63, "x" * 70, "7" * 10),
)
texts = st.lists(st.sampled_from(_PARTS), min_size=1, max_size=4).map("".join) | st.text(max_size=80)
# ZooKeeper excludes control characters and slashes from names (PathUtils.validatePath).
znodes = texts.filter(lambda text: text.strip(".") != "").map(
    lambda text: "".join(
        char for char in text if char >= " " and char != "/" and not "\x7f" <= char <= "\x9f"
    )
)
hosts = st.sampled_from(
    ("10.0.0.1", "10.0.0.2", "2001:db8::1", "example.com", f"{'h' * 63}.example", "local")
)
endpoints = st.builds(Endpoint, hosts, st.integers(1, 65535))
members = st.builds(
    Member,
    znodes.filter(bool) | znodes.map("member_{}".format),
    endpoints,
    st.dictionaries(texts, endpoints, max_size=3),
    shard=st.none() | st.integers(-5, 5),
    metadata=st.dictionaries(texts, texts, max_size=3),
)


def server_of(several: list[Member], *, dns_sd: bool = False) -> Server:
    server = Server({"web.staging": several, "m318-admin.web.staging": ["10.9.9.9:1"]}, dns_sd=dns_sd)
    server.resolve("example.com", "192.0.2.7")
    return server


@given(st.lists(members, min_size=1, max_size=4, unique_by=lambda each: each.name), st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_a_zone_file_is_valid_for_any_data_of_members(several: list[Member], dns_sd: bool) -> None:
    text = written(server_of(several, dns_sd=dns_sd))
    assert text.isascii()
    assert text.replace("\n", "").replace("\t", "").isprintable()
    for line in text.split("\n")[:-1]:
        assert line.startswith("; ") or line.count("\t") == 4
    dns.zone.from_text(text, "discovery.", relativize=False)
    assert_accepted_by_bind(text)


def assert_accepted_by_bind(text: str) -> None:
    program = find_program("named-checkzone")
    if program is None:  # dnspython has parsed it
        return
    # The records are complete, but the hosts outside of the zone do not exist here.
    command = [program, "-i", "local-sibling", "discovery", "/dev/stdin"]
    ended = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 0, f"{ended.stdout}\n{text}"


@given(st.lists(members, min_size=1, max_size=4, unique_by=lambda each: each.name), st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_the_names_in_answers_are_domain_names(several: list[Member], dns_sd: bool) -> None:
    """All answers can be parsed, and each target in them is a name that can be queried."""
    server = server_of(several, dns_sd=dns_sd)
    for name in {name for key in server.zone.services for name in server.zone.names_of_service(key)}:
        try:
            check_name(name)
        except BadValueError:  # no query can contain it
            continue
        for record in ask(server, dns.name.Name((*name, b"")), "SRV", stream=True).answer:
            for each in record:
                check_name(each.target.labels[:-1])


@pytest.mark.parametrize("length", [25, 54, 55, 63])
def test_a_long_name_of_a_member_leaves_room_for_its_hosts(length: int) -> None:
    """The host of an additional endpoint has a label of both names, of at most 63 bytes."""
    server = server_of([member("x" * length, "10.0.0.1:80", additional={"admin": "10.0.0.2:90"})])
    [[record]] = ask(server, "_admin._tcp.web.staging.discovery", "SRV").answer
    response = ask(server, record.target, "A")
    assert [each.address for each in response.answer[0]] == ["10.0.0.2"]
    assert f"{record.target}\t5\tIN\tA\t10.0.0.2\n" in written(server, ZONE)


def test_names_that_no_query_can_contain_are_left_out() -> None:
    endpoints = {"a..b": "10.0.0.1:1", "x" * 70: "10.0.0.1:2", "plain": "10.0.0.1:3"}
    text = written(server_of([member(1, "10.0.0.1:80", additional=endpoints)]))
    owners = {line.partition("\t")[0] for line in text.splitlines()}
    assert not any("a..b" in owner or "x" * 70 in owner for owner in owners)
    assert "\n_plain._tcp.web.staging.discovery.\t5\tIN\tSRV\t" in text
