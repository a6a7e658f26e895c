"""A zone as a master file: every record that would be answered, and nothing else."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import dns.name
import dns.rdatatype
import dns.zone
import pytest

from tests.dns.helpers import NAMESPACE, Server, ask, data, endpoint, member, origin_of, put
from zkdns.config import ServiceOverride
from zkdns.dns.zonefile import service_records, zone_header
from zkdns.names import Labels
from zkdns.namespace import ServiceName, parse_namespace
from zkdns.serverset.changes import MembersHeld, SetPut, SetUnread
from zkdns.serverset.member import Member

ZONE = (b"discovery",)
INNER = (b"deep", b"inner", b"discovery")
TYPES = ("A", "AAAA", "SRV", "TXT", "PTR")


def written(server: Server, apex: Labels = ZONE) -> str:
    """The whole file."""
    services = sorted(server.zone.services)
    return zone_header(server.zone, apex) + "".join(
        service_records(server.zone, apex, service) for service in services
    )


def comments(text: str) -> list[str]:
    return [line.removeprefix("; ") for line in text.splitlines() if line.startswith(";")]


def owners(text: str) -> set[str]:
    return {line.split("\t")[0] for line in text.splitlines() if not line.startswith(";")}


def lines_of(text: str, owner: str, qtype: str) -> list[str]:
    """The data of the records of a name and type, with their TTLs."""
    split = [line.split("\t") for line in text.splitlines() if not line.startswith(";")]
    return [f"{ttl} {what}" for name, ttl, _, own, what in split if (name, own) == (owner, qtype)]


def assert_is_answered(server: Server, text: str, origin: str = "discovery.") -> None:
    """The file as dnspython parses it equals the server's answers, for every name and type."""
    zone = dns.zone.from_text(text, origin, relativize=False)
    for name, node in zone.nodes.items():
        if name == zone.origin:
            continue
        for qtype in TYPES:
            found = node.get_rdataset(dns.rdataclass.IN, dns.rdatatype.from_text(qtype))
            response = ask(server, name, qtype, stream=True)
            assert sorted(data(response)) == sorted(record.to_text() for record in found or ())
            assert {record.ttl for record in response.answer} == ({found.ttl} if found else set())


def everything() -> Server:
    far = {"admin": "10.0.0.9:90", "v2.Stats": "10.0.0.1:91"}
    sets: dict[str, Iterable[str | Member]] = {
        "web.staging": [
            member(318, "10.0.0.1:80", shard=3, additional=far),
            member(319, "[2001:db8::1]:80", weight=2.5),
            member("member_x y", "10.0.0.3:80", shard=-1),
        ],
        "m318.web.staging": ["10.0.0.77:1"],
        "api.v2.prod": ["10.1.0.1:8080", "example.com:8080"],
        'odd "name";\\@$(é.prod': ["10.2.0.1:1"],
        "ttl.prod": ["10.3.0.1:1"],
    }
    server = Server(sets, service={"ttl.prod.discovery": ServiceOverride(ttl=77, max_answers=1)})
    server.resolve("example.com", "192.0.2.7")
    return server


def test_the_parsed_file_equals_the_answers() -> None:
    server = everything()
    text = written(server)
    assert_is_answered(server, text)
    assert len(owners(text)) > 30
    assert lines_of(text, "ttl.prod.discovery.", "A") == ["77 10.3.0.1"]


def test_every_name_with_records_is_written() -> None:
    server = Server({"web.staging": [member(318, "10.0.0.1:80", shard=3, additional={"a.b": "10.0.0.2:1"})]})
    web = "web.staging.discovery."
    labels = ("m318", "member_0000000318", "s3", f"m318-{zlib.crc32(b'a.b'):08x}")
    assert owners(written(server)) == {
        "discovery.",
        "_digest.discovery.",
        web,
        *(f"{label}.{web}" for label in labels),
        *(f"_a.b.{protocol}.{web}" for protocol in ("_tcp", "_udp")),
        *(f"_web.{protocol}.staging.discovery." for protocol in ("_tcp", "_udp")),
    }


def test_the_apex_has_soa_and_ns_and_a_nested_zone_is_delegated() -> None:
    inner = parse_namespace("/inner/{service}", INNER)
    server = Server(
        {"web.staging": ["10.0.0.1:80"], "web.deep.inner.discovery": ["10.0.0.2:80"]},
        namespaces=(NAMESPACE, inner),
        negative_ttl=3,
        ttl=7,
    )
    server.table.serial = 4711
    outer_text, inner_text = written(server), written(server, INNER)
    assert outer_text.splitlines()[:3] == [
        "discovery.\t3\tIN\tSOA\tlocalhost. hostmaster.discovery. 4711 60 10 86400 3",
        "discovery.\t7\tIN\tNS\tlocalhost.",
        "deep.inner.discovery.\t7\tIN\tNS\tlocalhost.",
    ]
    assert "web.staging.discovery." in owners(outer_text)
    assert not any(owner.endswith(".deep.inner.discovery.") for owner in owners(outer_text))
    assert "web.deep.inner.discovery." in owners(inner_text)
    assert all(owner.endswith("deep.inner.discovery.") for owner in owners(inner_text))
    assert "hostmaster.deep.inner.discovery. 4711 " in inner_text.splitlines()[0]
    assert_is_answered(server, inner_text, "deep.inner.discovery.")


def test_all_records_are_written_with_held_ones_and_over_max_answers() -> None:
    server = Server(
        {"web.staging": [member(number, f"10.0.0.{number}:80", weight=number) for number in range(4)]},
        max_answers=1,
    )
    server.apply(MembersHeld(origin_of("web.staging"), ("member_0000000002",)))
    text = written(server)
    assert lines_of(text, "web.staging.discovery.", "A") == ["5 10.0.0.1", "5 10.0.0.3", "5 10.0.0.2"]
    targets = [line.split()[2] for line in lines_of(text, "web.staging.discovery.", "SRV")]
    assert targets == ["100", "300", "200"]  # weights; a member of weight 0 is drained
    assert lines_of(text, "m0.web.staging.discovery.", "A") == ["5 10.0.0.0"]


@pytest.mark.parametrize("empty", ["nodata", "nxdomain"])
def test_a_service_without_members_is_a_comment_if_it_is_a_name(empty: str) -> None:
    text = written(Server({"idle.prod": []}, empty=empty))
    names = ("idle.prod", "_idle._tcp.prod", "_idle._udp.prod")
    expected = [f"{name}.discovery. exists without records" for name in names]
    assert comments(text) == (expected if empty == "nodata" else [])
    assert owners(text) == {"discovery.", "_digest.discovery."}


def test_unknown_data_is_written_as_a_comment() -> None:
    server = Server({"db.prod": [member(1, "db.example:5432")]})
    server.apply(SetUnread("/discovery/prod/hidden", ServiceName("hidden", "prod")))
    text = written(server)
    assert "hidden.prod.discovery. is answered with SERVFAIL: its members cannot be read" in comments(text)
    unresolved = "is answered with SERVFAIL for A and AAAA: no host could be resolved yet"
    for name in ("db", "m1.db", "member_0000000001.db"):
        assert f"{name}.prod.discovery. {unresolved}" in comments(text)
    assert lines_of(text, "db.prod.discovery.", "SRV") == ["5 0 100 5432 db.example."]
    assert lines_of(text, "db.prod.discovery.", "A") == []


def test_a_service_with_an_asterisk_is_left_out() -> None:
    server = Server({"*.prod": ["10.0.0.1:80"], "web.prod": ["10.0.0.2:80"], "a*b.prod": ["10.0.0.3:80"]})
    text = written(server)
    assert "10.0.0.1" not in text
    assert "_*._tcp.prod.discovery." not in owners(text)
    assert any(line.startswith("*.prod.discovery. is left out: ") for line in comments(text))
    assert {"web.prod.discovery.", "a*b.prod.discovery."} <= owners(text)


def test_each_name_is_written_once_by_the_service_that_owns_it() -> None:
    server = Server({"web.staging": ["10.0.0.1:80"], "_web._tcp.staging": ["10.0.0.2:80"]})
    text = written(server)
    assert lines_of(text, "_web._tcp.staging.discovery.", "A") == ["5 10.0.0.2"]
    assert len(lines_of(text, "_web._tcp.staging.discovery.", "SRV")) == 1
    assert_is_answered(server, text)


def test_names_that_are_too_long_are_not_written() -> None:
    scope, service = "e" * 60, f"{'a' * 60}.{'b' * 60}.{'c' * 49}"
    server = Server()
    name = ServiceName(service, scope)
    assert len(name.absolute) == 242
    server.apply(SetPut("/x", name, (member(1, "10.0.0.1:80", additional={"z" * 30: "10.0.0.1:81"}),)))
    # With an underscore before it, the label is one byte too long.
    server.apply(put(f"{'x' * 63}.prod", ["10.0.0.2:80"]))
    text = written(server)
    assert_is_answered(server, text)
    assert f"m1.{name.absolute}." in owners(text)
    assert max(map(len, owners(text))) <= 254
    assert {owner for owner in owners(text) if "x" * 63 in owner and owner.startswith("_")} == set()


def test_strings_are_quoted() -> None:
    endpoints = member('member_"\\é', endpoint("10.0.0.1:80"))
    text = written(Server({"web.prod": [endpoints]}))
    (line,) = lines_of(text, "web.prod.discovery.", "TXT")
    assert line.startswith(r'5 "member=member_\"\\\195\169" "status=ALIVE" "znode=')


def test_browsing_names_are_in_the_file_of_their_zone() -> None:
    inner = parse_namespace("/inner/{service}", INNER)
    sets: dict[str, Iterable[str | Member]] = {
        "web.staging": [member(318, "10.0.0.1:80"), member(319, "db.example.com:80")],
        "idle.staging": [],
        "db.deep.inner.discovery": ["10.0.0.2:80"],
    }
    server = Server(sets, namespaces=(NAMESPACE, inner), dns_sd=True, ttl=7)
    text, inner_text = written(server), written(server, INNER)
    about = "_dns-sd._udp.staging.discovery."
    assert lines_of(text, f"_services.{about}", "PTR") == [
        f"7 _{name}._tcp.staging.discovery." for name in ("idle", "web")
    ]
    assert [lines_of(text, f"{name}.{about}", "PTR") for name in ("b", "lb")] == [
        ["7 staging.discovery."]
    ] * 2
    web = "_web._tcp.staging.discovery."
    assert lines_of(text, web, "PTR") == [f"7 m318.{web}", f"7 m319.{web}"]
    assert lines_of(text, f"m319.{web}", "SRV") == ["7 0 100 80 db.example.com."]
    assert lines_of(text, f"m318.{web}", "TXT") == lines_of(text, "m318.web.staging.discovery.", "TXT")
    assert_is_answered(server, text)
    assert lines_of(inner_text, "_services._dns-sd._udp.deep.inner.discovery.", "PTR") == [
        "7 _db._tcp.deep.inner.discovery."
    ]
    assert not any("inner" in owner for owner in owners(text) - {"deep.inner.discovery."})
    assert_is_answered(server, inner_text, "deep.inner.discovery.")


def test_browsing_names_of_a_long_domain_are_written_if_they_fit() -> None:
    scope = ".".join(("e" * 63, "f" * 63, "g" * 63, "h" * 35))
    server = Server(dns_sd=True)
    server.apply(SetPut("/x", ServiceName("s", scope), (member(1, "10.0.0.1:80"),)))
    text = written(server)
    assert f"b._dns-sd._udp.{scope}.discovery." in owners(text)
    assert not any(owner.startswith("_services") for owner in owners(text))
    assert_is_answered(server, text)


def test_a_dns_sd_name_that_a_service_owns_is_the_services() -> None:
    server = Server({"web.staging": [], "b._dns-sd._udp.staging": ["10.0.0.1:80"]}, dns_sd=True)
    text = written(server)
    assert lines_of(text, "b._dns-sd._udp.staging.discovery.", "PTR") == []
    assert lines_of(text, "b._dns-sd._udp.staging.discovery.", "A") == ["5 10.0.0.1"]
    assert_is_answered(server, text)
