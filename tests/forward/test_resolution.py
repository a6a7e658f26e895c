"""The state machine of a resolution: attempts, time-outs, errors, truncation, forged replies and EDNS."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from tests.forward.resolution_helpers import question
from tests.support.upstream import UDP, Behaviour, ReceivedQuery, reply_to, returns_bare_rcode, returns_rcode
from zkdns.address import UpstreamAddress
from zkdns.forward.message import build_query
from zkdns.forward.reply import Reply
from zkdns.forward.resolution import (
    LIMIT_SECONDS,
    MAX_ATTEMPTS,
    MAX_BAD_MESSAGES,
    PROBE_LIMIT_SECONDS,
    RETRY_SECONDS,
    Attempt,
    Failure,
    FailureKind,
    Resolution,
    Step,
)
from zkdns.forward.upstreams import MAX_DOUBTS, Upstream, Upstreams

A, B, C = (UpstreamAddress(f"192.0.2.{number}", 53) for number in (1, 2, 3))
OVER_TLS = UpstreamAddress("192.0.2.4", 853, "resolver.example")
OVER_TCP = UpstreamAddress("192.0.2.5", 53, tcp=True)
REFUSED = returns_rcode(dns.rcode.REFUSED)
SERVFAIL = returns_rcode(dns.rcode.SERVFAIL)


class Scenario:
    """The resolution of one question, with a clock."""

    def __init__(
        self,
        *addresses: UpstreamAddress,
        probed: UpstreamAddress | None = None,
        upstreams: Upstreams | None = None,
    ) -> None:
        self.now = 1000.0
        self.upstreams = upstreams or Upstreams(addresses)
        target = next((each for each in self.upstreams.all if each.address == probed), None)
        self.question = question("www.example")
        self.resolution = Resolution(
            self.question,
            self.upstreams,
            self.now,
            lambda _, __: None,
            target,
            limit_seconds=LIMIT_SECONDS if target is None else PROBE_LIMIT_SECONDS,
        )
        self.step = self.execute(self.resolution.start(self.now))

    def execute(self, step: Step) -> Step:
        """Give an attempt the id of its query, as the resolver does."""
        if isinstance(step, Attempt) and not step.uses_stream:
            step.query_id = b"\x12\x34"
        self.step = step
        return step

    @property
    def attempt(self) -> Attempt:
        """The last step, which is an attempt."""
        assert isinstance(self.step, Attempt), self.step
        return self.step

    @property
    def target(self) -> tuple[UpstreamAddress, bool]:
        """The upstream of the last attempt, and whether it uses a stream."""
        return self.attempt.upstream.address, self.attempt.uses_stream

    @property
    def failure(self) -> Failure:
        assert isinstance(self.step, Failure), self.step
        return self.step

    def query_of(self, attempt: Attempt) -> ReceivedQuery:
        return ReceivedQuery(build_query(self.question, 0x1234, edns=attempt.edns), UDP, 0, 1)

    def receive(self, message: bytes, attempt: Attempt | None = None, after: float = 0.01) -> Step:
        """Receive a message for an attempt, by default the last one."""
        self.now += after
        return self.execute(self.resolution.on_message(attempt or self.attempt, message, self.now))

    def receive_answer(self, attempt: Attempt | None = None, after: float = 0.01) -> Step:
        attempt = attempt or self.attempt
        return self.receive(reply_to(self.query_of(attempt), "www.example. 60 A 192.0.2.1"), attempt, after)

    def receive_from(self, act: Behaviour, attempt: Attempt | None = None) -> Step:
        attempt = attempt or self.attempt
        (sent,) = act(self.query_of(attempt))
        assert sent.message is not None
        return self.receive(sent.message, attempt)

    def refuse(self, act: Behaviour) -> None:
        """Receive an error from one upstream, to the query with EDNS and to the one without."""
        self.receive_from(act)
        if not self.attempt.edns:
            self.receive_from(act)

    def receive_truncated(self) -> Step:
        return self.receive(reply_to(self.query_of(self.attempt), flags=dns.flags.TC))

    def fail(self, attempt: Attempt | None = None, reason: str = "cannot be reached") -> Step:
        return self.execute(self.resolution.on_error(attempt or self.attempt, reason, self.now))

    def wake(self) -> Step:
        """Advance the clock to `wake_at`."""
        assert self.resolution.wake_at > self.now
        self.now = self.resolution.wake_at
        return self.execute(self.resolution.on_timer(self.now))


def upstream_of(scenario: Scenario, address: UpstreamAddress) -> Upstream:
    return next(upstream for upstream in scenario.upstreams.all if upstream.address == address)


# -- replies, at once or late -----------------------------------------------------------------------------


def test_first_upstream_is_queried_over_udp_and_its_reply_is_the_outcome() -> None:
    scenario = Scenario(A, B)
    assert scenario.target == (A, False)
    assert scenario.attempt.edns
    assert isinstance(scenario.receive_answer(after=0.02), Reply)
    assert upstream_of(scenario, A).rtt == pytest.approx(0.02)


def test_answers_in_quick_succession_are_measured_every_10_ms_and_after_a_failure() -> None:
    upstreams = Upstreams([A])
    (upstream,) = upstreams.all

    def measured(after: float) -> float | None:
        upstream.rtt = None
        assert isinstance(Scenario(A, upstreams=upstreams).receive_answer(after=after), Reply)
        return upstream.rtt

    found = [measured(after) for after in (0.002, 0.011, 0.013, 0.022)]
    assert found == [pytest.approx(0.002), None, pytest.approx(0.013), None]
    upstream.on_failure(0.4)
    assert measured(0.0221) is not None
    assert (upstream.failures, upstream.recoveries) == (0, 1)


def test_nxdomain_is_a_conclusive_reply() -> None:
    scenario = Scenario(A, B)
    scenario.receive_from(returns_rcode(dns.rcode.NXDOMAIN))
    assert isinstance(scenario.step, Reply)


def test_late_reply_is_accepted_while_the_next_upstream_is_queried() -> None:
    scenario = Scenario(A, B)
    first = scenario.attempt
    scenario.wake()
    assert scenario.target == (B, False)
    assert isinstance(scenario.receive_answer(first), Reply)
    assert upstream_of(scenario, A).rtt == pytest.approx(scenario.now - first.sent_at, rel=0.2)


def test_single_upstream_gets_three_attempts_with_growing_timeouts() -> None:
    scenario = Scenario(A)
    started_at, at = scenario.now, [0.0]
    kinds = [(False, True)]
    while isinstance(scenario.wake(), Attempt):
        at.append(scenario.now - started_at)
        kinds.append((scenario.attempt.uses_stream, scenario.attempt.edns))
    assert kinds == [(False, True), (False, False), (True, True)]
    pauses = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert 0.3 <= pauses[0] <= 0.8
    assert pauses == sorted(pauses)
    assert len(at) == MAX_ATTEMPTS
    while scenario.step is None:  # a reply to the last attempt may still arrive
        scenario.wake()
    assert scenario.failure.kind is FailureKind.TIMED_OUT
    assert scenario.now - started_at == pytest.approx(LIMIT_SECONDS)
    assert "192.0.2.1:53 within 3.8 s" in scenario.failure.text
    assert scenario.failure.ede == 22


def test_second_attempt_has_edns_if_the_upstream_is_known_to_accept_it() -> None:
    scenario = Scenario(A)
    scenario.receive_answer()
    second = Scenario(A, upstreams=scenario.upstreams)
    second.wake()
    assert second.target == (A, False)
    assert second.attempt.edns


def test_every_upstream_is_queried_before_any_is_repeated() -> None:
    scenario = Scenario(A, B, C)
    order = [scenario.target[0]]
    for _ in range(3):
        scenario.wake()
        order.append(scenario.target[0])
    assert set(order[:3]) == {A, B, C}


def test_dead_upstream_is_not_queried_after_the_living_have_failed() -> None:
    scenario = Scenario(A, B)
    for _ in range(3):
        upstream_of(scenario, B).on_failure()
    scenario.refuse(REFUSED)
    assert scenario.failure.kind is FailureKind.REFUSED


def test_without_upstreams_the_outcome_is_a_failure() -> None:
    assert Scenario().failure.kind is FailureKind.NETWORK


# -- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP], ids=dns.rcode.to_text
)
def test_dns_32_error_leads_to_the_next_upstream(rcode: dns.rcode.Rcode) -> None:
    scenario = Scenario(A, B)
    scenario.refuse(returns_rcode(rcode))
    assert scenario.target == (B, False)
    assert isinstance(scenario.receive_answer(), Reply)
    assert upstream_of(scenario, A).refusals == 1


def test_referral_leads_to_the_next_upstream() -> None:
    """Its sender does not recurse. For a client it would mean that the name has no addresses."""
    scenario = Scenario(A, B)
    for target in (A, B):
        assert scenario.target == (target, False)
        referral = dns.message.from_wire(reply_to(scenario.query_of(scenario.attempt)))
        referral.flags &= ~dns.flags.RA
        referral.authority.append(dns.rrset.from_text("example.", 60, "IN", "NS", "ns.example."))
        scenario.receive(referral.to_wire())
    assert scenario.failure.kind is FailureKind.NETWORK
    assert "192.0.2.1:53 does not recurse" in scenario.failure.text


def test_failure_of_all_is_immediate_with_the_best_reply() -> None:
    scenario = Scenario(A, B, C)
    scenario.refuse(REFUSED)
    scenario.refuse(SERVFAIL)
    scenario.refuse(REFUSED)
    failure = scenario.failure
    assert failure.kind is FailureKind.SERVFAIL
    assert failure.reply is not None
    assert failure.reply.rcode == dns.rcode.SERVFAIL
    assert (
        failure.text
        == "192.0.2.1:53 responds REFUSED; 192.0.2.2:53 responds SERVFAIL; 192.0.2.3:53 responds REFUSED"
    )


def test_unreachable_upstream_is_skipped_and_counts_as_failed() -> None:
    scenario = Scenario(A, B)
    scenario.fail()
    assert scenario.target == (B, False)
    scenario.fail()
    for upstream in (A, B):
        assert scenario.target == (upstream, True)
        scenario.fail()
    assert scenario.failure.kind is FailureKind.NETWORK
    assert scenario.failure.ede == 23
    for _ in range(2):
        upstream_of(scenario, A).on_failure()
    assert upstream_of(scenario, A).is_dead


def test_silent_upstream_is_awaited_after_another_has_failed() -> None:
    scenario = Scenario(A, B)
    first = scenario.attempt
    scenario.wake()
    scenario.refuse(REFUSED)
    assert scenario.target == (A, False)
    assert isinstance(scenario.receive_answer(first), Reply)


def test_error_response_makes_a_dead_upstream_alive() -> None:
    scenario = Scenario(A)
    for _ in range(3):
        upstream_of(scenario, A).on_failure()
    scenario.receive_from(SERVFAIL)
    assert not upstream_of(scenario, A).is_dead


# -- truncation -------------------------------------------------------------------------------------------


def test_dns_32_truncated_reply_is_retried_at_the_same_upstream_over_tcp() -> None:
    scenario = Scenario(A, B)
    scenario.receive_truncated()
    assert scenario.target == (A, True)
    assert isinstance(scenario.receive_answer(), Reply)


def test_dns_32_after_a_tcp_failure_the_next_upstream_is_queried_over_tcp() -> None:
    scenario = Scenario(A, B)
    scenario.receive_truncated()
    scenario.fail()
    assert scenario.target == (B, True)
    assert not upstream_of(scenario, A).is_dead


def test_truncated_reply_is_the_best_reply_if_tcp_fails() -> None:
    scenario = Scenario(A)
    scenario.receive_truncated()
    scenario.fail()
    assert scenario.failure.reply is not None
    assert scenario.failure.reply.truncated


def test_tcp_failure_does_not_count_for_a_udp_upstream() -> None:
    for _ in range(5):
        scenario = Scenario(A)
        scenario.receive_truncated()
        scenario.fail()
        assert not upstream_of(scenario, A).failures


def test_reply_truncated_over_tcp_leads_to_the_next_upstream() -> None:
    scenario = Scenario(A, B)
    scenario.receive_truncated()
    scenario.receive_truncated()
    assert scenario.target == (B, True)


# -- forged or malformed ----------------------------------------------------------------------------------


def test_dns_31_wrong_id_is_ignored_and_the_attempt_stays_open() -> None:
    scenario = Scenario(A)
    attempt = scenario.attempt
    right = reply_to(scenario.query_of(attempt), "www.example. 60 A 192.0.2.1")
    for _ in range(MAX_BAD_MESSAGES - 1):
        assert scenario.receive(b"\x12\x35" + right[2:], attempt) is None
    assert isinstance(scenario.receive(right, attempt), Reply)
    assert upstream_of(scenario, A).bad_messages == MAX_BAD_MESSAGES - 1


def test_dns_31_several_wrong_ids_close_the_attempt_and_lead_to_tcp() -> None:
    scenario = Scenario(A, B)
    attempt = scenario.attempt
    right = reply_to(scenario.query_of(attempt), "www.example. 60 A 192.0.2.1")
    for _ in range(MAX_BAD_MESSAGES):
        scenario.receive(b"\x12\x35" + right[2:], attempt)
    assert scenario.target == (A, True)
    stream = scenario.attempt
    assert scenario.receive(right, attempt) is None
    assert not attempt.is_open
    scenario.fail(stream)
    assert scenario.target == (B, True)  # replies of other upstreams could be forged as well


def test_message_too_short_for_an_id_is_ignored() -> None:
    scenario = Scenario(A)
    attempt = scenario.attempt
    for message in (b"", b"\x12"):
        assert scenario.receive(message, attempt) is None
    assert attempt.is_open


def test_dns_31_wrong_question_leads_to_tcp_and_the_attempt_stays_open() -> None:
    scenario = Scenario(A)
    attempt = scenario.attempt
    other = dns.message.make_query("other.example.", "A", id=0x1234).to_wire()
    forged = reply_to(scenario.query_of(attempt)._replace(message=other), "other.example. 60 A 203.0.113.1")
    scenario.receive(forged)
    assert scenario.target == (A, True)
    assert scenario.receive(forged, attempt) is None  # one TCP query is enough
    assert isinstance(scenario.receive_answer(attempt), Reply)


def test_malformed_replies_over_udp_and_tcp_lead_to_the_next_upstream() -> None:
    scenario = Scenario(A, B)
    scenario.receive(b"\x12\x34" + b"\xff" * 40)
    assert scenario.target == (A, True)
    scenario.receive(b"\x12\x34" + b"\xff" * 40)
    assert scenario.target == (B, False)
    assert isinstance(scenario.receive_answer(), Reply)


def test_malformed_replies_of_a_single_upstream_fail_at_once() -> None:
    scenario = Scenario(A)
    scenario.receive(b"\x12\x34" + b"\xff" * 40)
    scenario.receive(b"\x12\x34" + b"\xff" * 40)
    assert scenario.failure.kind is FailureKind.NETWORK
    assert "192.0.2.1:53 sends no usable response" in scenario.failure.text


def test_bare_error_over_udp_leads_to_tcp() -> None:
    scenario = Scenario(A, B)
    scenario.receive_from(returns_bare_rcode(dns.rcode.SERVFAIL))
    assert scenario.target == (A, True)


# -- EDNS -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [returns_rcode, returns_bare_rcode], ids=["with the question", "bare"])
@pytest.mark.parametrize("rcode", [dns.rcode.FORMERR, dns.rcode.NOTIMP], ids=dns.rcode.to_text)
def test_upstream_without_edns_is_queried_without_it_from_then_on(
    act: Callable[[int], Behaviour], rcode: dns.rcode.Rcode
) -> None:
    scenario = Scenario(A, B)
    (sent,) = act(rcode)(scenario.query_of(scenario.attempt))
    assert sent.message is not None
    message = dns.message.from_wire(sent.message, ignore_trailing=True)
    message.use_edns(False)
    scenario.receive(message.to_wire())
    assert scenario.target == (A, False)
    assert not scenario.attempt.edns
    assert upstream_of(scenario, A).plan(scenario.now).uses_edns  # the question may be the reason
    assert isinstance(scenario.receive_answer(), Reply)
    assert not upstream_of(scenario, A).plan(scenario.now).uses_edns


def test_badvers_leads_to_a_query_without_edns() -> None:
    scenario = Scenario(A, B)
    scenario.receive_from(returns_rcode(dns.rcode.BADVERS))
    assert scenario.target == (A, False)
    assert not scenario.attempt.edns


ERRORS = pytest.mark.parametrize(
    "rcode",
    [dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.REFUSED, dns.rcode.SERVFAIL, dns.rcode.BADVERS],
    ids=dns.rcode.to_text,
)


@ERRORS
def test_error_with_an_opt_record_may_be_about_edns(rcode: dns.rcode.Rcode) -> None:
    """RFC 6891 §7 expects no OPT record in it, but some servers return that of the query."""
    scenario = Scenario(A, B)
    scenario.receive_from(returns_rcode(rcode))
    assert scenario.target == (A, False)
    assert not scenario.attempt.edns
    scenario.receive_from(returns_rcode(rcode))
    assert scenario.target == (B, False)
    assert scenario.attempt.edns
    assert upstream_of(scenario, A).plan(scenario.now).uses_edns


@pytest.mark.parametrize("act", [REFUSED, SERVFAIL], ids=["REFUSED", "SERVFAIL"])
def test_error_is_about_the_question_if_the_upstream_accepts_edns(act: Behaviour) -> None:
    first = Scenario(A, B)
    first.receive_answer()
    scenario = Scenario(A, B, upstreams=first.upstreams)
    scenario.receive_from(act)
    assert scenario.target == (B, False)


def test_upstream_that_is_silent_to_edns_gets_queries_without_it_after_three_questions() -> None:
    upstreams = Upstreams([A])
    for _ in range(MAX_DOUBTS):
        scenario = Scenario(A, upstreams=upstreams)
        assert scenario.attempt.edns
        scenario.wake()
        assert scenario.target == (A, False)
        assert not scenario.attempt.edns
        assert isinstance(scenario.receive_answer(), Reply)
    assert not Scenario(A, upstreams=upstreams).attempt.edns


def test_answer_to_a_late_query_with_edns_keeps_edns() -> None:
    upstreams = Upstreams([A])
    for _ in range(MAX_DOUBTS):
        scenario = Scenario(A, upstreams=upstreams)
        first = scenario.attempt
        scenario.wake()
        assert isinstance(scenario.receive_answer(first), Reply)
    assert Scenario(A, upstreams=upstreams).attempt.edns


# -- UDP does not work, TCP does --------------------------------------------------------------------------


def test_refused_udp_leads_to_tcp_and_soon_to_tcp_at_once() -> None:
    upstreams = Upstreams([A])
    for _ in range(MAX_DOUBTS):
        scenario = Scenario(A, upstreams=upstreams)
        assert scenario.target == (A, False)
        scenario.fail()
        assert scenario.target == (A, True)
        assert isinstance(scenario.receive_answer(), Reply)
        assert not upstream_of(scenario, A).failures
    assert Scenario(A, upstreams=upstreams).target == (A, True)


def test_silent_udp_leads_to_tcp_and_soon_to_tcp_at_once() -> None:
    upstreams = Upstreams([A])
    for _ in range(MAX_DOUBTS):
        scenario = Scenario(A, upstreams=upstreams)
        for expected in (False, True):
            scenario.wake()
            assert scenario.target == (A, expected)
        assert isinstance(scenario.receive_answer(), Reply)
    scenario = Scenario(A, upstreams=upstreams)
    assert scenario.target == (A, True)
    scenario.fail()
    assert Scenario(A, upstreams=upstreams).target == (A, False)


def test_tcp_after_truncation_is_no_reason_to_avoid_udp() -> None:
    upstreams = Upstreams([A])
    for _ in range(2 * MAX_DOUBTS):
        scenario = Scenario(A, upstreams=upstreams)
        assert scenario.target == (A, False)
        scenario.receive_truncated()
        assert isinstance(scenario.receive_answer(), Reply)


def test_upstream_with_tcp_only_is_queried_over_tcp() -> None:
    scenario = Scenario(OVER_TCP)
    assert scenario.target == (OVER_TCP, True)
    while isinstance(scenario.wake(), Attempt):
        assert scenario.target == (OVER_TCP, True)
    assert upstream_of(scenario, OVER_TCP).failures


# -- failures of the upstreams, and of the question -------------------------------------------------------


def test_failure_is_about_the_upstreams_if_none_of_them_responds() -> None:
    scenario = Scenario(A)
    while not isinstance(scenario.step, Failure):
        scenario.wake()
    assert scenario.failure.recoveries == scenario.upstreams.recoveries
    upstream_of(scenario, A).on_response()
    assert scenario.failure.recoveries != scenario.upstreams.recoveries


def test_failure_is_about_the_question_if_the_upstream_answers_others() -> None:
    scenario = Scenario(A)
    while not isinstance(scenario.step, Failure):
        scenario.wake()
        upstream_of(scenario, A).on_response()
    assert scenario.failure.kind is FailureKind.TIMED_OUT
    assert scenario.failure.recoveries is None
    second = Scenario(A)
    second.refuse(SERVFAIL)
    assert second.failure.recoveries is None


def test_formerr_to_every_query_does_not_disable_edns() -> None:
    scenario = Scenario(A, B)
    for _ in range(2):
        scenario.receive_from(returns_bare_rcode(dns.rcode.FORMERR))
    assert scenario.target[0] == A  # over TCP, because a bare error names no question
    scenario.receive_from(returns_bare_rcode(dns.rcode.FORMERR))
    assert scenario.target == (B, False)
    assert upstream_of(scenario, A).plan(scenario.now).uses_edns


# -- TLS --------------------------------------------------------------------------------------------------


def test_tls_upstream_is_queried_over_tls_only() -> None:
    scenario = Scenario(OVER_TLS)
    assert scenario.target == (OVER_TLS, True)
    while isinstance(scenario.wake(), Attempt):
        assert scenario.target == (OVER_TLS, True)


def test_tls_failure_counts_for_its_upstream() -> None:
    scenario = Scenario(OVER_TLS, A)
    scenario.fail()
    assert scenario.target == (A, False)
    assert upstream_of(scenario, OVER_TLS).failures == 1


# -- resource shortage ------------------------------------------------------------------------------------


def test_shortage_is_retried_and_does_not_count_for_the_upstream() -> None:
    scenario = Scenario(A)
    scenario.execute(scenario.resolution.on_shortage(scenario.attempt, scenario.now))
    assert scenario.step is None
    assert scenario.resolution.wake_at == pytest.approx(scenario.now + RETRY_SECONDS)
    scenario.wake()
    assert scenario.target == (A, False)
    assert not upstream_of(scenario, A).failures
    assert isinstance(scenario.receive_answer(), Reply)


def test_shortage_until_the_deadline_is_the_reason_of_the_failure() -> None:
    scenario = Scenario(A)
    started_at = scenario.now
    while not isinstance(scenario.step, Failure):
        scenario.execute(scenario.resolution.on_shortage(scenario.attempt, scenario.now))
        scenario.wake()
    assert scenario.failure.kind is FailureKind.OVERLOADED
    assert "no file descriptor" in scenario.failure.text
    assert scenario.now - started_at == pytest.approx(LIMIT_SECONDS)


# -- probes -----------------------------------------------------------------------------------------------


def test_dead_upstream_is_probed_with_and_without_edns_and_over_tcp() -> None:
    scenario = Scenario(A, B)
    upstream = upstream_of(scenario, B)
    for _ in range(3):
        upstream.on_failure()
    probe = Scenario(probed=B, upstreams=scenario.upstreams)
    kinds = [(probe.attempt.uses_stream, probe.attempt.edns)]
    for _ in range(2):
        probe.wake()
        assert probe.target[0] == B
        kinds.append((probe.attempt.uses_stream, probe.attempt.edns))
    assert kinds == [(False, True), (False, False), (True, True)]
    probe.receive_answer()
    assert not upstream.is_dead


def test_probed_upstream_is_queried_once_and_no_other_is() -> None:
    scenario = Scenario(A, B, probed=B)
    started_at = scenario.now
    assert scenario.target == (B, False)
    while scenario.wake() is None:
        pass
    assert scenario.failure.kind is FailureKind.TIMED_OUT
    assert scenario.now - started_at == pytest.approx(PROBE_LIMIT_SECONDS)
    assert upstream_of(scenario, B).timed_out == 1


@pytest.mark.parametrize("act", [REFUSED, SERVFAIL], ids=["REFUSED", "SERVFAIL"])
def test_any_response_to_a_probe_makes_the_upstream_alive(act: Behaviour) -> None:
    scenario = Scenario(A, B, probed=B)
    upstream = upstream_of(scenario, B)
    for _ in range(3):
        upstream.on_failure()
    scenario.receive_from(act)
    assert not upstream.is_dead
    assert not upstream.refusals


def test_truncated_reply_to_a_probe_is_sufficient() -> None:
    scenario = Scenario(A, probed=A)
    assert isinstance(scenario.receive_truncated(), Reply)


def test_probe_is_not_repeated_over_tcp() -> None:
    scenario = Scenario(A, probed=A)
    scenario.receive(b"\x12\x34" + b"\xff" * 40)
    assert scenario.failure.kind is FailureKind.NETWORK
