"""The names of a zone, their records and their order."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.dns.helpers import (
    NAMESPACE,
    Server,
    additional_of,
    ask,
    data,
    has_soa,
    many,
    member,
    origin_of,
    ports,
    put,
    rcode,
)
from zkdns.config import ServiceOverride
from zkdns.namespace import ServiceName, parse_namespace
from zkdns.serverset.changes import SetDropped, SetPut

AURORA = parse_namespace("/aurora/{role}/{environment}/{job}", (b"aurora",))
WEB = "web.staging.discovery"
_M1, _M2, _M3 = (f"m{number}.web.staging.discovery." for number in (318, 319, 320))


def _txt(number: int, shard: int, *endpoints: str) -> str:
    """The TXT strings of a member of web.staging."""
    name = f"member_{number:010d}"
    attributes = (f"member={name}", "status=ALIVE", f"shard={shard}", *endpoints)
    return " ".join(f'"{each}"' for each in (*attributes, f"znode=/discovery/staging/web/{name}"))


SETS = {
    "web.staging": [
        member(
            318, "10.0.0.1:8080", shard=3, additional={"admin": "10.0.0.1:9990", "http.api": "10.0.0.1:81"}
        ),
        member(319, "[2001:db8::1]:8081", shard=4, additional={"Admin": "[2001:db8::1]:9991"}),
        member(320, "10.0.0.3:8082", status="STOPPING", additional={"debug": "10.0.0.3:1"}),
    ],
    "api.v2.staging": [member(1, "10.1.0.1:80")],
    "v2.staging": [member(1, "10.2.0.1:80")],
    "deep.er.than.that.prod": [member(1, "10.3.0.1:80")],
    "idle.prod": [],
}

CASES = [
    # a service's own name
    ("web.staging", "A", "NOERROR", ["10.0.0.1"]),
    ("web.staging", "AAAA", "NOERROR", ["2001:db8::1"]),
    ("web.staging", "SRV", "NOERROR", [f"0 100 8080 {_M1}", f"0 100 8081 {_M2}"]),
    (
        "web.staging",
        "TXT",
        "NOERROR",
        [
            _txt(318, 3, "endpoint.admin=10.0.0.1:9990", "endpoint.http.api=10.0.0.1:81"),
            _txt(319, 4, "endpoint.Admin=[2001:db8::1]:9991"),
        ],
    ),
    ("web.staging", "MX", "NOERROR", []),
    ("WEB.Staging", "A", "NOERROR", ["10.0.0.1"]),
    # additional endpoints
    ("_admin._tcp.web.staging", "SRV", "NOERROR", [f"0 100 9990 {_M1}", f"0 100 9991 {_M2}"]),
    ("_admin._udp.web.staging", "SRV", "NOERROR", [f"0 100 9990 {_M1}", f"0 100 9991 {_M2}"]),
    ("_ADMIN._TCP.web.staging", "SRV", "NOERROR", [f"0 100 9990 {_M1}", f"0 100 9991 {_M2}"]),
    ("_http.api._tcp.web.staging", "SRV", "NOERROR", [f"0 100 81 {_M1}"]),
    ("_admin._tcp.web.staging", "A", "NOERROR", []),
    ("api._tcp.web.staging", "SRV", "NOERROR", []),
    ("_tcp.web.staging", "SRV", "NOERROR", []),
    ("_udp.web.staging", "A", "NOERROR", []),
    ("_debug._tcp.web.staging", "SRV", "NXDOMAIN", []),
    ("_nope._tcp.web.staging", "SRV", "NXDOMAIN", []),
    ("admin._tcp.web.staging", "SRV", "NXDOMAIN", []),
    ("_admin._sctp.web.staging", "SRV", "NXDOMAIN", []),
    ("_tcp.api.v2.staging", "SRV", "NXDOMAIN", []),
    ("x._admin._tcp.web.staging", "SRV", "NXDOMAIN", []),
    # RFC 2782's own form
    ("_web._tcp.staging", "SRV", "NOERROR", [f"0 100 8080 {_M1}", f"0 100 8081 {_M2}"]),
    ("_Web._UDP.staging", "SRV", "NOERROR", [f"0 100 8080 {_M1}", f"0 100 8081 {_M2}"]),
    ("_api.v2._tcp.staging", "SRV", "NOERROR", ["0 100 80 m1.api.v2.staging.discovery."]),
    ("_web._tcp.staging", "A", "NOERROR", []),
    ("v2._tcp.staging", "SRV", "NOERROR", []),
    ("_tcp.staging", "SRV", "NOERROR", []),
    ("_nope._tcp.staging", "SRV", "NXDOMAIN", []),
    ("_web._tcp.prod", "SRV", "NXDOMAIN", []),
    ("web._tcp.staging", "SRV", "NXDOMAIN", []),
    ("_idle._tcp.prod", "SRV", "NOERROR", []),
    # members
    ("m318.web.staging", "A", "NOERROR", ["10.0.0.1"]),
    ("m318.web.staging", "AAAA", "NOERROR", []),
    ("m318.web.staging", "SRV", "NOERROR", [f"0 100 8080 {_M1}"]),
    ("M318.web.staging", "A", "NOERROR", ["10.0.0.1"]),
    ("member_0000000318.web.staging", "A", "NOERROR", ["10.0.0.1"]),
    ("MEMBER_0000000318.web.staging", "SRV", "NOERROR", [f"0 100 8080 {_M1}"]),
    ("member_318.web.staging", "A", "NXDOMAIN", []),
    ("m0318.web.staging", "A", "NXDOMAIN", []),
    ("m320.web.staging", "A", "NXDOMAIN", []),
    ("m999.web.staging", "A", "NXDOMAIN", []),
    ("x.m318.web.staging", "A", "NXDOMAIN", []),
    # shards
    ("s3.web.staging", "A", "NOERROR", ["10.0.0.1"]),
    ("s4.web.staging", "AAAA", "NOERROR", ["2001:db8::1"]),
    ("s4.web.staging", "SRV", "NOERROR", [f"0 100 8081 {_M2}"]),
    ("S3.web.staging", "A", "NOERROR", ["10.0.0.1"]),
    ("s03.web.staging", "A", "NXDOMAIN", []),
    ("s5.web.staging", "A", "NXDOMAIN", []),
    ("s.web.staging", "A", "NXDOMAIN", []),
    # names with dots: the longest service wins
    ("api.v2.staging", "A", "NOERROR", ["10.1.0.1"]),
    ("v2.staging", "A", "NOERROR", ["10.2.0.1"]),
    ("m1.api.v2.staging", "A", "NOERROR", ["10.1.0.1"]),
    ("m1.v2.staging", "A", "NOERROR", ["10.2.0.1"]),
    ("nope.v2.staging", "A", "NXDOMAIN", []),
    ("deep.er.than.that.prod", "A", "NOERROR", ["10.3.0.1"]),
    # empty non-terminals
    ("er.than.that.prod", "A", "NOERROR", []),
    ("than.that.prod", "A", "NOERROR", []),
    ("that.prod", "A", "NOERROR", []),
    ("prod", "A", "NOERROR", []),
    ("staging", "AAAA", "NOERROR", []),
    ("_tcp.prod", "SRV", "NOERROR", []),
    ("r.than.that.prod", "A", "NXDOMAIN", []),
    # absent names
    ("idle.prod", "A", "NOERROR", []),
    ("nope.prod", "A", "NXDOMAIN", []),
    ("web.prod", "A", "NXDOMAIN", []),
    ("web", "A", "NXDOMAIN", []),
    ("test", "A", "NXDOMAIN", []),
    ("*.staging", "A", "NXDOMAIN", []),
]


@pytest.fixture(scope="module")
def server() -> Server:
    """The sets above, in a fixed order."""
    return Server(SETS, order="fixed")


@pytest.mark.parametrize(("name", "qtype", "code", "records"), CASES)
def test_names_have_their_documented_records(
    server: Server, name: str, qtype: str, code: str, records: list[str]
) -> None:
    response = ask(server, f"{name}.discovery", qtype, stream=True)
    assert (rcode(response), data(response)) == (code, records)
    assert has_soa(response) == (not records)


def test_additional_records_of_srv_equal_the_targets_answers(server: Server) -> None:
    expected = [f"{_M1} 10.0.0.1", f"{_M2} 2001:db8::1"]
    for name in (WEB, f"_admin._tcp.{WEB}", "_web._tcp.staging.discovery", "_WEB._udp.STAGING.discovery"):
        assert [text.lower() for text in additional_of(ask(server, name, "SRV", edns=0))] == expected


def test_a_service_above_another_is_not_hidden_by_it() -> None:
    """`x.web.staging` may be a service although `web.staging` has names below its own."""
    server = Server({"web.staging": ["10.0.0.1:80"], "m0.web.staging": ["10.0.0.2:80"]})
    assert data(ask(server, f"m0.{WEB}")) == ["10.0.0.2"]
    server.drop("m0.web.staging")
    assert data(ask(server, f"m0.{WEB}")) == ["10.0.0.1"]


def test_a_hidden_service_above_others_is_an_empty_non_terminal() -> None:
    server = Server({"web.staging": [], "api.web.staging": ["10.0.0.1:80"]}, empty="nxdomain")
    assert rcode(ask(server, WEB)) == "NOERROR"
    server.drop("api.web.staging")
    assert rcode(ask(server, WEB)) == "NXDOMAIN"


def test_a_name_ends_with_its_service_non_terminals_with_the_last() -> None:
    server = Server({"a.b.staging": ["10.0.0.1:80"], "c.b.staging": ["10.0.0.2:80"]})
    names = ["b.staging.discovery", "staging.discovery", "_tcp.staging.discovery", "b._tcp.staging.discovery"]
    server.drop("a.b.staging")
    assert {rcode(ask(server, name)) for name in names} == {"NOERROR"}
    assert rcode(ask(server, "_a.b._tcp.staging.discovery")) == "NXDOMAIN"
    server.drop("c.b.staging")
    assert {rcode(ask(server, name)) for name in names} == {"NXDOMAIN"}
    assert rcode(ask(server, "discovery")) == "NOERROR"


def test_a_non_terminal_between_services_ends_with_the_lower_one() -> None:
    """The other service does not change, and its answers stay cached."""
    for below, above, name in (
        ("_tcp.staging", "v2.web.staging", "web._tcp.staging.discovery"),
        ("web.staging", "x.y.web.staging", "y.web.staging.discovery"),
    ):
        made = Server({below: ["10.0.0.1:80"], above: ["10.0.0.2:80"]})
        assert rcode(ask(made, name)) == "NOERROR"
        made.drop(above)
        assert rcode(ask(made, name)) == "NXDOMAIN"
        made.apply(put(above, []))
        assert rcode(ask(made, name)) == "NOERROR"


def test_a_namespace_without_environment_has_services_at_the_zone() -> None:
    server = Server()
    server.apply(SetPut("/services/web", ServiceName("web"), (member(1, "10.0.0.1:80"),)))
    assert data(ask(server, "web.discovery")) == ["10.0.0.1"]
    assert ports(ask(server, "_web._tcp.discovery", "SRV")) == [(80, "m1.web.discovery.")]
    assert rcode(ask(server, "_tcp.discovery")) == "NOERROR"


def test_a_namespace_with_more_levels_has_longer_names() -> None:
    server = Server({"hello.devel.r": [member(1, "10.0.0.1:80")]}, namespaces=(AURORA,))
    assert data(ask(server, "hello.devel.r.aurora")) == ["10.0.0.1"]
    assert ports(ask(server, "_hello._tcp.devel.r.aurora", "SRV")) == [(80, "m1.hello.devel.r.aurora.")]
    assert rcode(ask(server, "devel.r.aurora")) == rcode(ask(server, "r.aurora")) == "NOERROR"
    assert rcode(ask(server, "r.devel.aurora")) == "NXDOMAIN"


# -- several zones ----------------------------------------------------------------------------------------


@pytest.fixture
def two_zones() -> Server:
    """Services of two zones; two of their names differ only in the zone."""
    sets = {
        "web.staging": [member(1, "10.0.0.1:80", additional={"admin": "10.0.0.1:81"})],
        "hello.devel.www.aurora": [member(1, "10.1.0.1:80")],
        "web.staging.www.aurora": [member(1, "10.2.0.1:80")],
    }
    return Server(sets, namespaces=(NAMESPACE, AURORA))


TWO_ZONES = [
    ("web.staging.discovery", "A", "NOERROR", ["10.0.0.1"], "discovery."),
    ("web.staging.www.aurora", "A", "NOERROR", ["10.2.0.1"], "aurora."),
    ("web.staging.www.Aurora", "SRV", "NOERROR", ["0 100 80 m1.web.staging.www.aurora."], "aurora."),
    ("_hello._tcp.devel.www.aurora", "SRV", "NOERROR", ["0 100 80 m1.hello.devel.www.aurora."], "aurora."),
    ("m1.hello.devel.www.aurora", "A", "NOERROR", ["10.1.0.1"], "aurora."),
    ("devel.www.aurora", "A", "NOERROR", [], "aurora."),
    ("_tcp.devel.www.aurora", "A", "NOERROR", [], "aurora."),
    ("www.aurora", "A", "NOERROR", [], "aurora."),
    ("staging.discovery", "A", "NOERROR", [], "discovery."),
    ("www.discovery", "A", "NXDOMAIN", [], "discovery."),
    ("devel.www.discovery", "A", "NXDOMAIN", [], "discovery."),
    ("staging.aurora", "A", "NXDOMAIN", [], "aurora."),
    ("web.staging.aurora", "A", "NXDOMAIN", [], "aurora."),
    ("hello.devel.www.discovery", "A", "NXDOMAIN", [], "discovery."),
    ("discovery", "NS", "NOERROR", ["localhost."], "discovery."),
    ("aurora", "NS", "NOERROR", ["localhost."], "aurora."),
    ("aurora", "A", "NOERROR", [], "aurora."),
    ("web.staging", "A", "REFUSED", [], None),
    ("discovery.aurora.example", "A", "REFUSED", [], None),
]


@pytest.mark.parametrize(("name", "qtype", "code", "records", "zone"), TWO_ZONES)
def test_each_zone_has_names_and_an_apex_of_its_own(
    two_zones: Server, *, name: str, qtype: str, code: str, records: list[str], zone: str | None
) -> None:
    response = ask(two_zones, name, qtype, stream=True)
    assert (rcode(response), data(response)) == (code, records)
    assert has_soa(response, zone or "") == (not records and zone is not None)


def test_additional_records_and_overrides_stay_in_their_zone(two_zones: Server) -> None:
    assert additional_of(ask(two_zones, "hello.devel.www.aurora", "SRV", edns=0)) == [
        "m1.hello.devel.www.aurora. 10.1.0.1"
    ]
    overrides = {"web.staging.www.aurora": ServiceOverride(ttl=77)}
    sets = {"web.staging": ["10.0.0.1:80"], "web.staging.www.aurora": ["10.2.0.1:80"]}
    server = Server(sets, namespaces=(NAMESPACE, AURORA), service=overrides)
    assert ask(server, "web.staging.www.aurora").answer[0].ttl == 77
    assert ask(server, WEB).answer[0].ttl == 5


def test_a_service_is_removed_from_its_own_zone_only(two_zones: Server) -> None:
    two_zones.apply(SetDropped(origin_of("web.staging")))
    assert rcode(ask(two_zones, WEB)) == rcode(ask(two_zones, "staging.discovery")) == "NXDOMAIN"
    assert data(ask(two_zones, "web.staging.www.aurora")) == ["10.2.0.1"]


def test_the_longest_of_nested_zones_has_the_apex_and_hides_nothing() -> None:
    inner = parse_namespace("/inner/{service}", (b"a", b"staging", b"discovery"))
    server = Server(
        {
            "web.a.staging.discovery": [member(1, "10.0.0.1:80")],  # by its length, in the inner zone
            "api.staging": [member(1, "10.0.0.2:80")],
        },
        namespaces=(NAMESPACE, inner),
    )
    server.apply(
        SetPut("/discovery/a.staging/db", ServiceName("db", "a.staging"), (member(1, "10.0.0.3:80"),))
    )
    server.apply(SetPut("/discovery/staging/a", ServiceName("a", "staging"), (member(1, "10.0.0.4:80"),)))
    for name, address in (
        ("web.a", "10.0.0.1"),
        ("api", "10.0.0.2"),
        ("db.a", "10.0.0.3"),
        ("a", "10.0.0.4"),
    ):
        assert data(ask(server, f"{name}.staging.discovery")) == [address]
    assert len(ask(server, "a.staging.discovery", "SOA").answer) == 1
    assert ports(ask(server, "a.staging.discovery", "SRV")) == [(80, "m1.a.staging.discovery.")]
    assert ports(ask(server, "_web._tcp.a.staging.discovery", "SRV")) == [(80, "m1.web.a.staging.discovery.")]
    assert has_soa(ask(server, "nope.a.staging.discovery"), "a.staging.discovery.")
    assert has_soa(ask(server, "nope.staging.discovery"), "discovery.")
    assert has_soa(ask(server, "a.staging.discovery", "DS"), "discovery.")  # RFC 4035 §3.1.4.1
    assert has_soa(ask(server, "api.staging.discovery", "DS"), "discovery.")
    assert has_soa(ask(server, "discovery", "DS"), "discovery.")
    server.drop("api.staging")
    server.apply(SetDropped("/discovery/staging/a"))
    assert rcode(ask(server, "staging.discovery")) == "NOERROR"  # a zone lies below
    assert rcode(ask(server, "_tcp.staging.discovery")) == "NXDOMAIN"


def test_sets_of_two_namespaces_with_one_name_are_one_service() -> None:
    server = Server({"web.staging": [member(1, "10.0.0.1:80")]}, order="fixed")
    server.apply(put("web.staging", [member(1, "10.0.0.2:80")], origin="/other/staging/web"))
    assert data(ask(server, WEB)) == ["10.0.0.1", "10.0.0.2"]
    assert len({target for _, target in ports(ask(server, WEB, "SRV"))}) == 2


def test_the_rfc_2782_name_follows_the_split_of_the_service_name() -> None:
    """`b` in `c.d` and `b.c` in `d` are the same name; while both exist, the first origin's split counts."""
    server = Server()
    for origin, name in (("/1", ServiceName("b.c", "d")), ("/2", ServiceName("b", "c.d"))):
        server.apply(SetPut(origin, name, (member(1, "10.0.0.1:80"),)))
    names = ("_b.c._tcp.d.discovery", "_b._tcp.c.d.discovery")
    assert [rcode(ask(server, name, "SRV")) for name in names] == ["NOERROR", "NXDOMAIN"]
    server.apply(SetDropped("/1"))
    assert [rcode(ask(server, name, "SRV")) for name in names] == ["NXDOMAIN", "NOERROR"]
    assert rcode(ask(server, "_tcp.c.d.discovery")) == "NOERROR"
    assert rcode(ask(server, "c._tcp.d.discovery")) == "NXDOMAIN"


# -- statuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["DEAD", "STARTING", "STOPPING", "STOPPED", "WARNING", "UNKNOWN"])
def test_only_members_with_a_served_status_are_answered(status: str) -> None:
    sets = {"web.staging": [member(1, "10.0.0.1:80", status=status, shard=1), member(2, "10.0.0.2:80")]}
    assert data(ask(Server(sets), WEB)) == ["10.0.0.2"]
    assert rcode(ask(Server(sets), f"m1.{WEB}")) == "NXDOMAIN"
    assert rcode(ask(Server(sets), f"s1.{WEB}")) == "NXDOMAIN"
    both = Server(sets, statuses=("ALIVE", status), order="fixed")
    assert data(ask(both, WEB)) == ["10.0.0.1", "10.0.0.2"]
    assert data(ask(both, f"m1.{WEB}")) == ["10.0.0.1"]


def test_a_service_with_only_stopping_members_is_empty() -> None:
    sets = {"web.staging": [member(1, "10.0.0.1:80", status="STOPPING")]}
    assert (rcode(ask(Server(sets), WEB)), data(ask(Server(sets), WEB))) == ("NOERROR", [])
    assert rcode(ask(Server(sets, empty="nxdomain"), WEB)) == "NXDOMAIN"


# -- orders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qtype", ["A", "SRV", "TXT"])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("limit", [None, 1, 2])
def test_in_round_robin_each_of_n_members_leads_k_of_n_times_k_answers(
    qtype: str, count: int, limit: int | None
) -> None:
    server = Server({"web.staging": many(count)}, max_answers=limit)
    answers = [data(ask(server, WEB, qtype, stream=True)) for _ in range(count * 5)]
    heads = Counter(answer[0] for answer in answers)
    assert (len(heads), set(heads.values())) == (count, {5})
    assert {len(answer) for answer in answers} == {min(count, limit or count)}


def test_round_robin_rotates_and_never_shuffles() -> None:
    server = Server({"web.staging": many(5)})
    members = sorted(data(ask(server, WEB)))
    for _ in range(10):
        answer = data(ask(server, WEB))
        first = members.index(answer[0])
        assert answer == members[first:] + members[:first]


def test_in_round_robin_each_question_has_its_own_rotation() -> None:
    """A client that sends A and AAAA, or A and SRV, in pairs still reaches all members."""
    server = Server({"web.staging": many(4)})
    pairs = [(data(ask(server, WEB))[0], data(ask(server, WEB, "SRV"))[0]) for _ in range(8)]
    assert set(Counter(address for address, _ in pairs).values()) == {2}
    assert set(Counter(target for _, target in pairs).values()) == {2}


def test_round_robin_ignores_case_and_all_else_in_the_query() -> None:
    server = Server({"web.staging": many(4)})
    answers = [
        data(ask(server, name, edns=edns, ident=ident))[0]
        for ident, (name, edns) in enumerate(
            [(WEB, None), (WEB.upper(), 0), ("Web.staging.discovery", 0), (WEB, 0)]
        )
    ]
    assert len(set(answers)) == 4


def test_rotations_continue_over_changes_of_the_table() -> None:
    """A service that changes before every query must not always have the same leading member."""
    server = Server({"web.staging": many(4), "other.staging": many(1)})
    heads: Counter[str] = Counter()
    for turn in range(12):
        heads[data(ask(server, WEB))[0]] += 1
        server.apply(put("other.staging", [member(turn, "10.9.9.9:80")]))
        server.change("web.staging", added=[member(3, "10.0.0.4:8080", metadata={"turn": str(turn)})])
    assert heads == dict.fromkeys(["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"], 3)


def test_rotations_start_at_random_for_a_fleet_of_hosts() -> None:
    heads = {data(ask(Server({"web.staging": many(4)}, seed=seed), WEB))[0] for seed in range(50)}
    assert len(heads) == 4


def test_in_fixed_order_members_are_sorted_by_age() -> None:
    server = Server({"web.staging": [member(9, "10.0.0.9:80"), member(10, "10.0.0.1:80")]}, order="fixed")
    server.change("web.staging", added=[member(2, "10.0.0.5:80")])
    for _ in range(3):
        assert data(ask(server, WEB)) == ["10.0.0.5", "10.0.0.9", "10.0.0.1"]


def test_in_random_order_every_member_leads_at_times() -> None:
    server = Server({"web.staging": many(4)}, order="random")
    answers = [data(ask(server, WEB)) for _ in range(200)]
    assert {len(answer) for answer in answers} == {4}
    heads = Counter(answer[0] for answer in answers)
    assert len(heads) == 4
    assert min(heads.values()) > 20
    assert len({tuple(answer) for answer in answers}) > 12


@pytest.mark.parametrize("order", ["round-robin", "random", "fixed"])
@pytest.mark.parametrize("qtype", ["A", "SRV", "TXT", "ANY"])
def test_max_answers_limits_an_answer(order: str, qtype: str) -> None:
    server = Server({"web.staging": many(9)}, order=order, max_answers=3)
    for stream in (False, True):
        response = ask(server, WEB, qtype, edns=0, stream=stream)
        assert len(data(response)) == 3
        assert len(response.additional) == (3 if qtype == "SRV" else 0)


def test_a_subset_of_max_answers_rotates_over_all_members() -> None:
    server = Server({"web.staging": many(7)}, max_answers=3)
    seen = Counter(address for _ in range(7) for address in data(ask(server, WEB)))
    assert (len(seen), set(seen.values())) == (7, {3})


def test_a_service_may_override_ttl_order_and_max_answers() -> None:
    overrides = {
        WEB: ServiceOverride(ttl=60, order="fixed", max_answers=2),
        "api.staging.discovery": ServiceOverride(ttl=0),
    }
    names = ("web.staging", "api.staging", "Plain.staging")
    server = Server({name: many(4) for name in names}, service=overrides, ttl=7, max_answers=3)
    web, api, plain = ([ask(server, f"{name}.discovery", "SRV", edns=0) for _ in range(3)] for name in names)
    assert [len(response.answer) for response in (web[0], api[0], plain[0])] == [2, 3, 3]
    assert len({tuple(data(response)) for response in web}) == 1
    assert len({tuple(data(response)) for response in api}) == 3
    for responses, ttl in ((web, 60), (api, 0), (plain, 7)):
        assert {record.ttl for record in (*responses[0].answer, *responses[0].additional)} == {ttl}
    assert ask(server, f"m1.{WEB}").answer[0].ttl == 60
    assert ask(server, "_web._tcp.staging.discovery", "SRV").answer[0].ttl == 60


def test_an_override_matches_its_service_in_any_case() -> None:
    server = Server({"Web.Staging": many(4)}, service={WEB: ServiceOverride(max_answers=1)})
    assert len(data(ask(server, "wEB.staging.discovery"))) == 1
