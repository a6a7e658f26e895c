"""The services in the file formats of all servers, and the queries in the formats of all loads."""

from pathlib import Path

import dns.message
import dns.rdatatype
import dns.zone

from tests.bench.queries import encode, in_random_case, nonexistent_names, service_questions, write_queries
from tests.bench.zone import make_services, to_dnsmasq_lines, to_hosts_file, to_static_file, to_zone_file
from zkdns.namespace import parse_namespace
from zkdns.serverset.static_file import parse_static

SERVICES = make_services(3, 4)
NAMESPACE = parse_namespace("/discovery/{environment}/{service}", (b"discovery",))


def test_all_members_of_all_services_have_different_addresses() -> None:
    addresses = [address for service in make_services(300, 10) for address, _ in service.members]
    assert len(set(addresses)) == 3000


def test_the_zone_file_and_the_static_file_have_the_same_members() -> None:
    zone = dns.zone.from_text(to_zone_file(SERVICES), relativize=False)
    sets = parse_static(to_static_file(SERVICES), [NAMESPACE], origin="services.toml")
    for service, members in zip(SERVICES, sets.values(), strict=True):
        served = [(member.name, member.service) for member in members if member.service]
        assert len(served) == len(service.members)
        srv = {str(record) for record in zone.find_rdataset(f"{service.owner}.", "SRV")}
        assert srv == {f"0 100 {endpoint.port} {name}.{service.owner}." for name, endpoint in served}
        addresses = {str(record) for record in zone.find_rdataset(f"{service.owner}.", "A")}
        assert addresses == {endpoint.host for _, endpoint in served}
        for name, endpoint in served:
            (own,) = zone.find_rdataset(f"{name}.{service.owner}.", "A")
            assert str(own) == endpoint.host


def test_dnsmasq_has_an_address_and_an_srv_record_of_each_member() -> None:
    (address, port), owner = SERVICES[1].members[2], SERVICES[1].owner
    assert f"{address} {owner} m2.{owner}" in to_hosts_file(SERVICES).splitlines()
    assert f"srv-host={owner},m2.{owner},{port},0,100" in to_dnsmasq_lines(SERVICES).splitlines()
    assert len(to_dnsmasq_lines(SERVICES).splitlines()) == len(to_hosts_file(SERVICES).splitlines()) == 12


def test_a_query_has_one_question_and_edns_if_requested() -> None:
    for edns in (False, True):
        message = dns.message.from_wire(encode(("service0.staging.discovery", "SRV"), edns=edns))
        (question,) = message.question
        assert str(question.name) == "service0.staging.discovery."
        assert question.rdtype == dns.rdatatype.SRV
        assert (message.edns, message.payload) == ((0, 1232) if edns else (-1, 0))


def test_both_query_files_have_the_same_questions(tmp_path: Path) -> None:
    questions = service_questions(SERVICES)
    assert sorted(questions) == sorted((s.owner, qtype) for s in SERVICES for qtype in ("A", "SRV"))
    files = write_queries(tmp_path / "queries", questions, edns=True)
    packed, found = files.packets.read_bytes(), []
    while packed:
        size = int.from_bytes(packed[:2], "big")
        (question,) = dns.message.from_wire(packed[2 : 2 + size]).question
        found.append(f"{str(question.name)[:-1]} {dns.rdatatype.to_text(question.rdtype)}")
        packed = packed[2 + size :]
    assert files.text is not None
    assert files.text.read_text().splitlines() == found
    assert files.count == len(found) == 6


def test_random_case_changes_only_upper_and_lower_case() -> None:
    spelled = in_random_case(service_questions(SERVICES), 600)
    assert {(name.lower(), qtype) for name, qtype in spelled} == set(service_questions(SERVICES))
    assert len(set(spelled)) > 590  # 23 letters each: duplicates are rare


def test_nonexistent_names_are_all_different_and_depend_on_the_seed() -> None:
    first, second = ({name for name, _ in nonexistent_names(2000, seed)} for seed in (1, 2))
    assert len(first) == 2000
    assert not first & second
    assert not {service.owner for service in make_services(2000, 1)} & first
