"""Members, endpoints, lists and picked servers are those of Go's standard library.

This is not go.serversets: the other side is programs/wire, a program of this project. Members and lists go
through encoding/json, net and sort, which go.serversets uses too. The ring of hashes in programs/wire was
written from the same description as the one in Python; test_exchange.py compares the one of go.serversets.
"""

from __future__ import annotations

import base64
import random
from pathlib import Path
from typing import Any

import pytest

from tests.interop.go import PROGRAMS, ask, build, encoded, go_is_missing
from tests.interop.keys import KEYS, SPELLINGS
from zkdns import FixedSet
from zkdns.errors import BadMemberError
from zkdns.mcset import MCSet
from zkdns.serverset.member import Endpoint, Member, decode_member, encode_member
from zkdns.serverset.server_set import make_member
from zkdns.serverset.watch import endpoint_text

pytestmark = [pytest.mark.processes, pytest.mark.skipif(bool(go_is_missing()), reason=go_is_missing())]

HOSTS = [
    "myhost",
    "10.0.0.1",
    "2001:db8::1",
    "a.b-c.example",
    "_x.example",
    "Host",
    "a" * 63,
    "1.2.3.4.nip.io",
]
# No backspace and form feed: Go escapes them as \u0008 up to 1.21, and as \b since 1.22.
TEXTS = [
    "",
    "a",
    "é",
    "<&>",
    "\u2028\u2029",
    '"\\/',
    "\0\x01\x1f\x7f\t\n\r",
    "ключ",
    "🗝",
    "z" * 300,
    "\ufffd",
]
NAME = "member_0000000007"


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("go"), [PROGRAMS / "wire" / "main.go"])


def members() -> list[Member]:
    """Members of all forms that the library writes."""
    chosen = random.Random(2)
    made = []
    for number in range(600):
        names = chosen.sample(TEXTS[1:], chosen.randint(0, 5))
        made.append(
            make_member(
                HOSTS[number % len(HOSTS)],
                chosen.randint(0 if names else 1, 65535),
                additional={name: (chosen.choice(HOSTS), chosen.randint(1, 65535)) for name in names},
                shard=chosen.choice([None, 0, 7, -1, 2**31 - 1, -(2**31)]),
                metadata={text: chosen.choice(TEXTS) for text in chosen.sample(TEXTS, chosen.randint(0, 4))},
            )
        )
    return made


def as_go(member: Member) -> dict[str, Any]:
    """A member as the program receives and returns it."""

    def written(endpoint: Endpoint | None) -> dict[str, Any]:
        return {"host": endpoint.host, "port": endpoint.port} if endpoint else {"host": "", "port": 0}

    made: dict[str, Any] = {
        "serviceEndpoint": written(member.service),
        "additionalEndpoints": {name: written(each) for name, each in member.additional.items()},
        "status": member.status.value,
    }
    if member.shard is not None:
        made["shard"] = member.shard
    if member.metadata:
        made["metadata"] = dict(member.metadata)
    return made


def test_go_writes_the_bytes_that_the_library_writes(wire: Path) -> None:
    written = members()
    answers = ask(wire, ({"Op": "encode", "Member": as_go(member)} for member in written))
    for member, answer in zip(written, answers, strict=True):
        assert base64.b64decode(answer["data"]) == encode_member(member)


def test_go_reads_what_the_library_writes(wire: Path) -> None:
    written = members()
    answers = ask(wire, ({"Op": "decode", "Data": encoded(encode_member(member))} for member in written))
    for member, answer in zip(written, answers, strict=True):
        assert answer["error"] == ""
        assert answer["member"] == as_go(member)


def test_the_library_reads_what_go_writes(wire: Path) -> None:
    written = members()
    answers = ask(wire, ({"Op": "encode", "Member": as_go(member)} for member in written))
    for member, answer in zip(written, answers, strict=True):
        read = decode_member(NAME, base64.b64decode(answer["data"]))
        assert as_go(read) == as_go(member)


# Data of a member, and whether Go's reader can use it. If not, it makes the whole set fail there.
READINGS = [
    (b'{"serviceEndpoint":{"host":"a","port":1},"additionalEndpoints":{},"status":"ALIVE"}', True),
    (b'{"serviceEndpoint":{"host":"a","port":1},"additionalEndpoints":null,"status":"ALIVE"}', True),
    (b'{"serviceEndpoint":{"host":"a","port":1},"status":"ALIVE"}', True),
    (b'{"status":"DEAD","serviceEndpoint":{"port":1,"host":"a"},"unknown":[{}]}', True),
    (b' {"serviceEndpoint" : {"host":"\\u0061","port":1} ,\n"status":"STOPPING"}\n', True),
    (b'{"serviceEndpoint":{"host":"2001:DB8::1","port":1},"status":"ALIVE"}', True),
    (b'{"serviceEndpoint":{"host":"[2001:db8::2]","port":1},"status":"ALIVE"}', True),
    (b'{"serviceEndpoint":{"host":"::ffff:10.0.0.3","port":1},"status":"ALIVE"}', True),
    (b'{"serviceEndpoint":{"host":"db.example.","port":1},"status":"ALIVE"}', True),
    (b'{"serviceEndpoint":{"host":"a","port":"1"},"status":"ALIVE"}', False),
    (b'{"serviceEndpoint":{"host":"a","port":1.0},"status":"ALIVE"}', False),
    (b'\xef\xbb\xbf{"serviceEndpoint":{"host":"a","port":1},"status":"ALIVE"}', False),
    (b'{"serviceEndpoint":{"host":"a","port":1},"status":2}', False),
]


def test_the_library_reads_everything_that_go_reads(wire: Path) -> None:
    """The status, and the endpoint as it is written, which the ring hashes. The library also reads more."""
    answers = ask(wire, ({"Op": "decode", "Data": encoded(data)} for data, _ in READINGS))
    for (data, is_readable), answer in zip(READINGS, answers, strict=True):
        read = decode_member(NAME, data)
        assert (answer["error"] == "") is is_readable, data
        if is_readable:
            assert (read.written or endpoint_text(read)) == answer["endpoint"]
            assert read.status.value == answer["member"]["status"]


@pytest.mark.parametrize("data", [b"", b"[]", b'{"serviceEndpoint":', b"\x01", b'{"serviceEndpoint":7}'])
def test_neither_reads_garbage(wire: Path, data: bytes) -> None:
    (answer,) = ask(wire, [{"Op": "decode", "Data": encoded(data)}])
    assert answer["error"]
    with pytest.raises(BadMemberError):
        decode_member(NAME, data)


def test_endpoints_are_sorted_as_by_go(wire: Path) -> None:
    chosen = random.Random(3)
    hosts = [f"[{host}]" if ":" in host else host for host in (*HOSTS, "2001:db8::a", "::1", "10.0.0.10")]
    written = [f"{chosen.choice(hosts)}:{chosen.randint(1, 65535)}" for _ in range(500)]
    endpoints = FixedSet(written).endpoints
    assert len(endpoints) > 400
    (answer,) = ask(wire, [{"Op": "sort", "Endpoints": chosen.sample(endpoints, len(endpoints))}])
    assert tuple(answer["texts"]) == endpoints


def test_keys_are_on_the_same_servers(wire: Path) -> None:
    for spellings in (SPELLINGS, dict(list(SPELLINGS.items())[:2]), dict(list(SPELLINGS.items())[3:])):
        caches = MCSet(FixedSet(spellings))
        keys = [encoded(key.encode()) for key in KEYS]
        (answer,) = ask(wire, [{"Op": "pick", "Endpoints": list(spellings), "Keys": keys}])
        picked = [spellings[text] for text in answer["texts"]]
        assert picked == [caches.pick(key) for key in KEYS]
        assert set(picked) == set(spellings.values())


def test_bytes_that_are_no_text_are_on_the_same_servers(wire: Path) -> None:
    keys = [random.Random(number).randbytes(number % 40) for number in range(2_000)]
    caches = MCSet(FixedSet(SPELLINGS))
    (answer,) = ask(
        wire, [{"Op": "pick", "Endpoints": list(SPELLINGS), "Keys": [encoded(key) for key in keys]}]
    )
    assert [SPELLINGS[text] for text in answer["texts"]] == [caches.pick(key) for key in keys]
