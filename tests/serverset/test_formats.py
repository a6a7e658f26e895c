"""The formats of znodes that are no members, by name and by data."""

from __future__ import annotations

import pytest

from zkdns.serverset.formats import (
    describe_format,
    describe_names,
    guess_common_format,
    guess_format,
    shorten_name,
)

MEMBER = b'{"serviceEndpoint":{"host":"10.0.0.1","port":80},"additionalEndpoints":{},"status":"ALIVE"}'
CURATOR = (
    b'{"name":"web","id":"5f1c","address":"10.0.0.1","port":8080,"sslPort":null,"payload":%s,'
    b'"registrationTimeUTC":1767225600000,"serviceType":"DYNAMIC","uriSpec":null}'
)
SPRING = b'{"@class":"org.springframework.cloud.zookeeper.discovery.ZookeeperInstance","id":"web-1"}'
DUBBO3 = b'{"@class":"org.apache.dubbo.registry.zookeeper.ZookeeperInstance","id":"10.0.0.1:20880"}'
OTHER = b'{"@class":"com.example.Instance"}'
KAFKA = (
    b'{"version":4,"host":null,"port":-1,"endpoints":["SSL://h1.example.com:9093"],"jmx_port":-1,'
    b'"timestamp":"1767225600000","listener_security_protocol_map":{"SSL":"SSL"}}'
)
KAFKA_1 = b'{"jmx_port":-1,"timestamp":"1767225600000","host":"h1","version":1,"port":9092}'
SERVICE = (
    b'{"type":"service","service":{"type":"service","service":{"srvce":"_redis","proto":"_tcp","port":6379}}}'
)
HOST = b'{"type":"redis_host","address":"10.0.0.1","ttl":30,"redis_host":{"address":"10.0.0.1"}}'
NERVE = b'{"host":"10.0.0.1","port":8080,"name":"i-1","weight":2,"labels":{"az":"a"}}'
UUID = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
DUBBO = "dubbo%3A%2F%2F10.0.0.1%3A20880%2Fcom.example.Cart%3Fapplication%3Dshop%26version%3D1.0"


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("node1", MEMBER, "server set"),
        ("Member_0000000001", MEMBER, "server set"),
        (UUID, MEMBER, "server set"),
        ("10.0.0.1:80", b"\xef\xbb\xbf" + MEMBER, "server set"),
        ("node1", b'{"additionalEndpoints":{"http":{"host":"a","port":1}}}', "server set"),
        ("node1", bytes.fromhex("0c00010b0001000000036f6464080002000000020000"), "server set"),
        ("i-1_0000000012", NERVE, "nerve"),
        ("i-1_", b'{"host":"10.0.0.1","port":8080,"name":"i-1"}', "nerve"),
        ("i-1", b'{"host":"10.0.0.1","port":8080}', "nerve"),
        ("base64_80_eyJob3N0IjoiMTAuMC4wLjEifQ==_0000000012", None, "nerve"),
        ("5f1c", CURATOR % b"null", "Apache Curator x-discovery"),
        ("5f1c", CURATOR % OTHER, "Apache Curator x-discovery"),
        ("5f1c", CURATOR % b"[1]", "Apache Curator x-discovery"),
        (UUID, None, "Apache Curator x-discovery"),
        (f"{UUID}0000000003", None, "Apache Curator x-discovery"),
        (UUID, CURATOR % SPRING, "Spring Cloud Zookeeper"),
        ("10.0.0.1:20880", CURATOR % DUBBO3, "Dubbo 3, application level"),
        (DUBBO, None, "Dubbo 2.x, interface level"),
        (DUBBO, b"10.0.0.1", "Dubbo 2.x, interface level"),
        ("providers", b"", "Dubbo 2.x, interface level"),
        ("zone-1", HOST, "Triton registrar"),
        ("cache", SERVICE, "Triton registrar"),
        ("0f3a9c5e7d1b4a68b2c4d6e8f0a1b3c5-10.0.0.1:8080", b"10.0.0.1:8080", "Pinterest kingpin"),
        ("0f3a9c5e7d1b4a68b2c4d6e8f0a1b3c5-host", None, "Pinterest kingpin"),
        ("10.0.0.1:8080", None, "host:port"),
        ("10.0.0.1:8080", b"", "host:port"),
        ("[2001:db8::1]:8080", None, "host:port"),
        ("n1", b"10.0.0.1:8080", "host:port"),
        ("n1", b"[2001:db8::1]:8080\n", "host:port"),
        ("1001", KAFKA, "Kafka"),
        ("0", KAFKA_1, "Kafka"),
        ("10.0.0.1:8983_solr", b"", "Solr"),
        ("h1.example.com,16020,1767225600000", b"\xff\0\0", "HBase"),
        ("serverUri=h1:10000;version=3.1.3;sequence=0000000003", None, "HiveServer2"),
        ("any", b'{"host":"10.0.0.1","port":"8080"}', "grpc"),
        # unknown
        ("node1", None, None),
        ("i-1_0000000012", None, None),
        ("leader", b"", None),
        ("node1", b"garbage", None),
        ("node1", b"\xff\xfe", None),
        ("node1", b"{", None),
        ("node1", b"{}", None),
        ("node1", b"[]", None),
        ("node1", b'{"type":"service"}', None),
        ("node1", b'{"type":["service"],"service":{}}', None),
        ("node1", b'{"a":' * 10_000, None),
        ("node1", b'{"a":"\xff"}', None),
        ("node1", b'{"host":"%s","port":1}' % (b"x" * 100_000), None),
        ("", None, None),
    ],
)
def test_a_format_is_recognized_by_name_or_data(name: str, data: bytes | None, expected: str | None) -> None:
    assert guess_format(name, data) == expected


def test_the_first_recognized_child_decides() -> None:
    assert guess_common_format({"leader": None, "n1": b"10.0.0.1:80", "n2": NERVE}) == "host:port"
    assert guess_common_format({"leader": None}) is None
    assert guess_common_format({}) is None


@pytest.mark.parametrize(
    ("found", "examples", "expected"),
    [
        (None, ["a"], ""),
        ("nerve", ["i-1_0000000012"], "nerve"),
        ("server set", ["node1", "node27"], "server set with member_prefix = 'node'"),
        ("server set", ["i-120000000318"], "server set with member_prefix = 'i-12'"),
        ("server set", ["node", "leader"], "server set"),
        ("server set", ["v1"], "server set"),
        ("server set", [UUID], "server set"),
        ("server set", ["10.0.0.1:80"], "server set"),
        ("server set", ["0000000001"], "server set"),
        ("server set", ["Member_0000000001"], "server set with member_prefix = 'Member_'"),
        ("server set", ["n-0000000001", "n-0000000002", "leader"], "server set with member_prefix = 'n-'"),
        ("server set", ["a_0000000001", "b_0000000002"], "server set"),
    ],
)
def test_a_server_set_with_another_prefix_is_described_with_it(
    found: str | None, examples: list[str], expected: str
) -> None:
    assert describe_format(found, examples) == expected


@pytest.mark.parametrize(
    ("examples", "count", "expected"),
    [
        (["a"], 1, "a"),
        (["a", "b", "c"], 3, "a, b, c"),
        (["a", "b", "c", "d"], 4, "a, b, c and 1 more"),
        (["a"], 1000, "a and 999 more"),
        ([], 2, "names omitted"),
    ],
)
def test_a_few_names_stand_for_all(examples: list[str], count: int, expected: str) -> None:
    assert describe_names(examples, count) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("größe", "größe"),
        ("\x1b[31mred\n", "\\x1b[31mred\\n"),
        ("\u202eabc", "\\u202eabc"),
        ("x" * 40, "x" * 40),
        ("x" * 41, "x" * 39 + "…"),
        ("\x1b" * 1000, "\\x1b" * 9 + "\\x1…"),
    ],
)
def test_names_are_escaped_and_shortened(name: str, expected: str) -> None:
    assert shorten_name(name) == expected
