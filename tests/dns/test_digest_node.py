"""The digest of a zone as a TXT record, which a secondary can compute from the other records."""

from __future__ import annotations

import dns.rdatatype
import dns.zone
import pytest

from tests.dns.helpers import NAMESPACE, Server, ask, data, has_soa, many, member, origin_of, rcode
from tests.dns.test_zonefile import everything, written
from zkdns.address import parse_host_port
from zkdns.digest import Digest, member_digest
from zkdns.dns.steps import UnfinishedError
from zkdns.names import to_text
from zkdns.namespace import parse_namespace
from zkdns.serverset.changes import MembersHeld
from zkdns.serverset.member import Endpoint, Member, Status

NAME = "_digest.discovery"


def digest(server: Server, name: str = NAME) -> str:
    """The strings of the TXT record."""
    (text,) = data(ask(server, name, "TXT"))
    return str(text)


def test_the_record_has_the_digest_and_the_number_of_members() -> None:
    server = Server({"web.staging": [member(1, "10.0.0.1:80"), member(2, "10.0.0.2:80", status="STARTING")]})
    own = member_digest("web.staging.discovery", member(1, "10.0.0.1:80"), is_held=False)
    assert digest(server) == f'"v=1" "members=1" "digest={own:016x}"'
    assert digest(server, "_DIGEST.Discovery") == digest(server)
    assert digest(Server()) == '"v=1" "members=0" "digest=0000000000000000"'


@pytest.mark.parametrize("order", ["round-robin", "random", "fixed"])
def test_the_response_follows_every_change(order: str) -> None:
    server = Server({"web.staging": ["10.0.0.1:80", "10.0.0.2:80"], "api.prod": ["10.0.0.3:80"]}, order=order)
    seen = [digest(server), digest(server)]
    assert seen[0] == seen[1]
    server.change("web.staging", removed=[f"member_{1:010d}"])
    seen.append(digest(server))
    server.apply(MembersHeld(origin_of("web.staging"), (f"member_{0:010d}",), 1.0))
    seen.append(digest(server))
    server.drop("api.prod")
    seen.append(digest(server))
    assert len(set(seen)) == 4


def test_other_types_and_names_below_do_not_exist() -> None:
    server = Server({"web.staging": ["10.0.0.1:80"]})
    nodata = ask(server, NAME, "A")
    assert (rcode(nodata), data(nodata), has_soa(nodata)) == ("NOERROR", [], True)
    for name in (f"x.{NAME}", "_digest.staging.discovery"):
        assert rcode(ask(server, name, "TXT")) == "NXDOMAIN"
    assert data(ask(server, NAME, "ANY")) == data(ask(server, NAME, "TXT"))


def test_each_zone_has_its_own() -> None:
    inner = parse_namespace("/inner/{service}", (b"inner", b"discovery"))
    sets = {"web.staging": ["10.0.0.1:80"], "db.inner.discovery": ["10.0.0.2:80", "10.0.0.3:80"]}
    server = Server(sets, namespaces=(NAMESPACE, inner))
    assert '"members=1"' in digest(server)
    assert '"members=2"' in digest(server, "_digest.inner.discovery")


def test_a_large_table_is_counted_in_pieces() -> None:
    """The first query is deferred. The next ones cost nothing, since changes are counted as they happen."""
    server = Server({"web.staging": many(5000)})
    steps = server.zone.steps
    steps.deferral = lambda _key, _retry: b""
    labels = (b"_digest", b"discovery")
    pieces = 0
    with pytest.raises(UnfinishedError):
        server.zone.find(labels)
    while steps.is_unfinished((b"",)):
        steps.advance((b"",), 500)
        pieces += 1
    assert pieces > 100
    assert server.table.need_digests(server.config).of_zone(labels[1:]).members == 5000
    server.change("web.staging", removed=[f"member_{17:010d}"])
    assert server.table.need_digests(server.config).of_zone(labels[1:]).members == 4999
    assert server.zone.find(labels).node is not None


def test_a_secondary_computes_the_same_digest_from_the_records() -> None:
    """Also with host names, duplicates, held and drained members, and endpoints that members share."""
    server = everything()
    shared = {"admin": "10.0.0.9:90", "Admin": "10.0.0.9:91", "v6": "[2001:db8::9]:1"}
    server.change("web.staging", added=[member(400, "10.0.0.1:80", additional=shared)])
    server.change("web.staging", added=[member(401, "10.0.0.1:80", additional=shared, weight=0.0)])
    server.change("web.staging", added=[member(402, "10.0.0.8:80", weight=1 / 3)])
    server.change("web.staging", added=[member(403, "db1:80"), member(404, "Db1.Example.com:80")])
    server.change("web.staging", added=[member(405, None, additional={"admin": "10.0.0.9:90"})])
    server.apply(MembersHeld(origin_of("web.staging"), ("member_0000000402",), 1.0))
    server.resolve("db1", "192.0.2.8")
    zone = dns.zone.from_text(written(server), "discovery.", relativize=False)
    members: dict[tuple[str, str], int] = {}
    for owner, node in zone.nodes.items():
        for record in node.get_rdataset(dns.rdataclass.IN, dns.rdatatype.TXT) or ():
            fields = dict(string.decode().rpartition("=")[::2] for string in record.strings)
            service = _service_of(fields["znode"]) if "znode" in fields else ""
            if owner.parent().to_text() == f"{service}.":  # the own name of a member
                rebuilt = _rebuilt(zone, owner, fields)
                is_held = "held" in fields
                members[service, rebuilt.name] = member_digest(service, rebuilt, is_held=is_held)
    own = server.table.need_digests(server.config).of_zone((b"discovery",))
    assert Digest(len(members), sum(members.values()) % 2**64) == own
    assert f'"digest={own}"' in digest(server)


def _service_of(znode: str) -> str:
    return to_text(NAMESPACE.service_at(znode.rpartition("/")[0]).key)


def _rebuilt(zone: dns.zone.Zone, owner: dns.name.Name, fields: dict[str, str]) -> Member:
    """The member with these attributes, of which this is the own name."""
    targets = list(zone.get_rdataset(owner, "SRV") or ())
    own = None
    for srv in targets:
        addresses = [
            record.address for qtype in ("A", "AAAA") for record in zone.get_rdataset(srv.target, qtype) or ()
        ]
        own = Endpoint((fields.get("host") or next(iter(addresses), srv.target.to_text()[:-1])), srv.port)
    additional = {
        name.removeprefix("endpoint."): parse_host_port(value)
        for name, value in fields.items()
        if name.startswith("endpoint.")
    }
    return Member(
        fields["member"],
        own,
        {name: Endpoint(one.host, one.port) for name, one in additional.items()},
        Status(fields["status"]),
        int(fields["shard"]) if "shard" in fields else None,
        weight=float(fields.get("weight", 1)),
    )
