"""DNS.md 37 in its pure part: which query is a probe of ours that comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from zkdns.dns.message import Type

from zkdns.address import UpstreamAddress
from zkdns.forward.loop_detection import ELSEWHERE, LoopProbes, report_loop
from zkdns.forward.question import Question
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


def test_a_probe_is_a_text_below_a_domain_that_resolvers_pass_on() -> None:
    question = made()
    label, *rest = labels(question.name)
    assert tuple(rest) == (b"loop", b"zkdns", b"example")
    assert len(bytes.fromhex(label.decode())) == 20
    assert question == Question(question.name.lower(), Type.TXT)


def test_each_probe_is_another_one() -> None:
    assert len({made().name for _ in range(100)}) == 100


@given(st.sampled_from(BOTH), TIMES, st.floats(0, 15))
def test_a_probe_that_comes_back_names_its_upstream_to_every_worker(
    upstream: UpstreamAddress, now: float, seconds: float
) -> None:
    other_worker = LoopProbes(SECRET)
    assert other_worker.returned(made(upstream, now), BOTH, now + seconds) == upstream


def test_a_probe_of_an_upstream_that_is_not_asked_any_more_is_nobodys() -> None:
    assert PROBES.returned(made(HERE), [THERE], 1000.0) is None
    assert PROBES.returned(made(HERE), [], 1000.0) is None


@pytest.mark.parametrize("later", [17.0, 3600.0, -2.0])
def test_a_probe_that_was_written_down_is_of_no_use_later(later: float) -> None:
    assert PROBES.returned(made(now=1000.0), BOTH, 1000.0 + later) is None


def test_another_servers_probe_is_passed_on_like_any_name() -> None:
    assert LoopProbes(b"another secret!!").returned(made(), BOTH, 1000.0) is None


@given(st.integers(0, 54), st.integers(1, 255))
def test_a_probe_of_which_a_bit_is_another_is_none(at: int, flip: int) -> None:
    question = made()
    name = bytearray(question.name)
    name[at] ^= flip
    assert PROBES.returned(replace(question, name=bytes(name)), BOTH, 1000.0) in (
        None,
        # Digits have two spellings; names arrive in lower case.
        HERE if bytes(name).lower() == question.name else None,
    )


def test_a_probe_of_another_type_or_below_another_domain_is_none() -> None:
    question = made()
    assert PROBES.returned(replace(question, qtype=Type.A), BOTH, 1000.0) is None
    moved = question.name.removesuffix(to_wire(ELSEWHERE)) + to_wire((b"corp",))
    assert PROBES.returned(replace(question, name=moved), BOTH, 1000.0) is None


def test_flags_that_the_way_has_changed_do_not_matter() -> None:
    assert PROBES.returned(replace(made(), do=True, cd=True), BOTH, 1000.0) == HERE


@given(
    st.binary(max_size=255)
    | st.binary(max_size=60).map(lambda label: made().name[:1] + label + made().name[41:])
)
def test_any_other_name_is_no_probe_and_no_error(name: bytes) -> None:
    assert PROBES.returned(Question(name, Type.TXT), BOTH, 1000.0) is None


def test_a_domains_own_upstreams_are_probed_with_names_of_the_domain() -> None:
    domain = (b"corp", b"example")
    question = PROBES.question(HERE, 5.0, domain)
    assert question is not None
    assert labels(question.name)[-2:] == domain
    assert PROBES.returned(question, BOTH, 6.0, domain) == HERE
    assert PROBES.returned(question, BOTH, 6.0) is None  # who hands back those may know all others


def test_a_domain_that_has_no_room_for_the_name_is_not_probed() -> None:
    question = PROBES.question(HERE, 5.0, (b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 9))
    assert question is not None
    assert len(question.name) == 255
    assert PROBES.question(HERE, 5.0, (b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 10)) is None


@pytest.mark.parametrize(
    ("source", "domain", "where", "change"),
    [
        (None, None, "forward.upstreams", "name others there (--upstream ADDRESS)"),
        (
            "/etc/resolv.conf",
            None,
            "/etc/resolv.conf",
            "name others with forward.upstreams (--upstream ADDRESS)",
        ),
        (
            None,
            "corp.example",
            '[forward.zone."corp.example"]',
            'name others in [forward.zone."corp.example"]',
        ),
    ],
)
def test_people_are_told_which_upstream_it_is_and_what_to_change(
    source: str | None, domain: str | None, where: str, change: str
) -> None:
    assert report_loop(THERE, source=source, domain=domain) == (
        f"tls://192.0.2.1:853#dns.example, which {where} names, hands the queries that it is sent back to "
        f"this server, so it is asked no more; let it ask somebody else, or {change}"
    )
