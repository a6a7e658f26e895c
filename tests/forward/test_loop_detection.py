"""Loop probes: DNS.md 37 without I/O."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from zkdns.address import UpstreamAddress
from zkdns.dns.message import Type
from zkdns.forward.loop_detection import DEFAULT_DOMAIN, LoopProbes, describe_loop
from zkdns.forward.message import Question
from zkdns.names import to_wire

HERE = UpstreamAddress("192.0.2.1", 53)
THERE = UpstreamAddress("192.0.2.1", 853, "dns.example")
BOTH = (HERE, THERE)
SECRET = b"0123456789abcdef"
PROBES = LoopProbes(SECRET)

TIMES = st.floats(0, 2.0**40)


def made(upstream: UpstreamAddress = HERE, now: float = 1000.0) -> Question:
    question = PROBES.question(upstream, now)
    assert question is not None
    return question


def labels(name: bytes) -> tuple[bytes, ...]:
    found = []
    while name[0]:
        found.append(name[1 : 1 + name[0]])
        name = name[1 + name[0] :]
    assert name == b"\0"
    return tuple(found)


def test_probe_is_a_txt_query_for_a_name_that_resolvers_forward() -> None:
    question = made()
    label, *rest = labels(question.name)
    assert tuple(rest) == (b"loop", b"zkdns", b"example")
    assert len(bytes.fromhex(label.decode())) == 20
    assert question == Question(question.name.lower(), Type.TXT)


def test_each_probe_is_different() -> None:
    assert len({made().name for _ in range(100)}) == 100


@given(st.sampled_from(BOTH), TIMES, st.floats(0, 15))
def test_every_worker_recognizes_a_probe_and_its_upstream(
    upstream: UpstreamAddress, now: float, seconds: float
) -> None:
    other_worker = LoopProbes(SECRET)
    assert other_worker.match(made(upstream, now), BOTH, now + seconds) == upstream


def test_probe_of_a_former_upstream_is_not_recognized() -> None:
    assert PROBES.match(made(HERE), [THERE], 1000.0) is None
    assert PROBES.match(made(HERE), [], 1000.0) is None


@pytest.mark.parametrize("later", [17.0, 3600.0, -2.0])
def test_old_probe_is_not_recognized(later: float) -> None:
    assert PROBES.match(made(now=1000.0), BOTH, 1000.0 + later) is None


def test_probe_of_another_server_is_not_recognized() -> None:
    assert LoopProbes(b"another secret!!").match(made(), BOTH, 1000.0) is None


@given(st.integers(0, 54), st.integers(1, 255))
def test_probe_with_a_changed_bit_is_not_recognized(at: int, flip: int) -> None:
    question = made()
    name = bytearray(question.name)
    name[at] ^= flip
    assert PROBES.match(replace(question, name=bytes(name)), BOTH, 1000.0) in (
        None,
        # Digits have two spellings; names arrive in lower case.
        HERE if bytes(name).lower() == question.name else None,
    )


def test_probe_of_another_type_or_domain_is_not_recognized() -> None:
    question = made()
    assert PROBES.match(replace(question, qtype=Type.A), BOTH, 1000.0) is None
    moved = question.name.removesuffix(to_wire(DEFAULT_DOMAIN)) + to_wire((b"corp",))
    assert PROBES.match(replace(question, name=moved), BOTH, 1000.0) is None


def test_changed_flags_do_not_matter() -> None:
    assert PROBES.match(replace(made(), do=True, cd=True), BOTH, 1000.0) == HERE


@given(
    st.binary(max_size=255)
    | st.binary(max_size=60).map(lambda label: made().name[:1] + label + made().name[41:])
)
def test_other_names_are_not_recognized(name: bytes) -> None:
    assert PROBES.match(Question(name, Type.TXT), BOTH, 1000.0) is None


def test_probes_of_a_forward_zone_have_names_in_its_domain() -> None:
    domain = (b"corp", b"example")
    question = PROBES.question(HERE, 5.0, domain)
    assert question is not None
    assert labels(question.name)[-2:] == domain
    assert PROBES.match(question, BOTH, 6.0, domain) == HERE
    assert PROBES.match(question, BOTH, 6.0) is None  # it may resolve all other names


def test_domain_too_long_for_a_probe_has_none() -> None:
    question = PROBES.question(HERE, 5.0, (b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 9))
    assert question is not None
    assert len(question.name) == 255
    assert PROBES.question(HERE, 5.0, (b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 10)) is None


@pytest.mark.parametrize(
    ("source", "domain", "where", "change"),
    [
        (None, None, "forward.upstreams", "set other upstreams there (--upstream ADDRESS)"),
        (
            "/etc/resolv.conf",
            None,
            "/etc/resolv.conf",
            "set other upstreams with forward.upstreams (--upstream ADDRESS)",
        ),
        (
            None,
            "corp.example",
            '[forward.zone."corp.example"]',
            'set other upstreams in [forward.zone."corp.example"]',
        ),
    ],
)
def test_description_has_the_upstream_and_the_setting_to_change(
    source: str | None, domain: str | None, where: str, change: str
) -> None:
    assert describe_loop(THERE, source=source, domain=domain) == (
        f"tls://192.0.2.1:853#dns.example (from {where}) returns queries to this server, so it gets no more "
        f"queries; configure it to use other resolvers, or {change}"
    )
