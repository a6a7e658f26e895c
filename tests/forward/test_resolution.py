"""What follows from what, for one question: asked, time passes, answered."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import dns.flags
import dns.message
import dns.rcode
import pytest

from tests.forward.resolution_helpers import question
from tests.support.upstream import UDP, Behaviour, ReceivedQuery, reply_to, returns_bare_rcode, returns_rcode
from zkdns.address import UpstreamAddress
from zkdns.forward.message import build_query
from zkdns.forward.reply import Reply
from zkdns.forward.resolution import (
    DEFER_SECONDS,
    LIMIT_SECONDS,
    MAX_ATTEMPTS,
    MAX_ATTEMPTS_ON_DEAD,
    MAX_BAD_REPLIES,
    PROBE_LIMIT_SECONDS,
    Attempt,
    Failure,
    Kind,
    Resolution,
    Step,
)
from zkdns.forward.upstreams import Upstream, Upstreams

A, B, C = (UpstreamAddress(f"192.0.2.{number}", 53) for number in (1, 2, 3))
OVER_TLS = UpstreamAddress("192.0.2.4", 853, "resolver.example")
REFUSED = returns_rcode(dns.rcode.REFUSED)
SERVFAIL = returns_rcode(dns.rcode.SERVFAIL)


class Story:
    """One question to some upstreams, and the time that passes meanwhile."""

    def __init__(
        self,
        *addresses: UpstreamAddress,
        only: UpstreamAddress | None = None,
        upstreams: Upstreams | None = None,
    ) -> None:
        self.now = 1000.0
        self.upstreams = upstreams or Upstreams(addresses)
        one = next((upstream for upstream in self.upstreams.all if upstream.address == only), None)
        self.question = question("www.example")
        self.exchange = Resolution(self.question, self.upstreams, self.now, lambda _: None, one)
        self.step = self.sent(self.exchange.begin(self.now))

    def sent(self, step: Step) -> Step:
        """Give a try the id that it is sent with."""
        if isinstance(step, Attempt) and not step.by_stream:
            step.ident = b"\x12\x34"
        self.step = step
        return step

    @property
    def tried(self) -> Attempt:
        """The last thing to be done, which is to send something."""
        assert isinstance(self.step, Attempt), self.step
        return self.step

    @property
    def asked(self) -> tuple[UpstreamAddress, bool]:
        """Whom it just asked, and whether over a stream."""
        return self.tried.upstream.address, self.tried.by_stream

    @property
    def failure(self) -> Failure:
        assert isinstance(self.step, Failure), self.step
        return self.step

    def asked_of(self, tried: Attempt) -> ReceivedQuery:
        return ReceivedQuery(build_query(self.question, 0x1234, edns=tried.edns), UDP, 0, 1)

    def comes(self, message: bytes, tried: Attempt | None = None, after: float = 0.01) -> Step:
        """Something comes where the answer to a try, else the last one, is waited for."""
        self.now += after
        return self.sent(self.exchange.received(tried or self.tried, message, self.now))

    def answered(self, tried: Attempt | None = None, after: float = 0.01) -> Step:
        tried = tried or self.tried
        return self.comes(reply_to(self.asked_of(tried), "www.example. 60 A 192.0.2.1"), tried, after)

    def says(self, act: Behaviour, tried: Attempt | None = None) -> Step:
        tried = tried or self.tried
        (sent,) = act(self.asked_of(tried))
        assert sent.message is not None
        return self.comes(sent.message, tried)

    def truncated(self) -> Step:
        return self.comes(reply_to(self.asked_of(self.tried), flags=dns.flags.TC))

    def fails(self, tried: Attempt | None = None, reason: str = "cannot be reached") -> Step:
        return self.sent(self.exchange.failed(tried or self.tried, reason, self.now))

    def waits(self) -> Step:
        """Time passes until it wants to be woken."""
        assert self.exchange.wake_at > self.now
        self.now = self.exchange.wake_at
        return self.sent(self.exchange.woken(self.now))


def upstream_of(story: Story, address: UpstreamAddress) -> Upstream:
    return next(upstream for upstream in story.upstreams.all if upstream.address == address)


# -- an answer, at once or late -----------------------------------------------------------------------------


def test_the_first_is_asked_over_udp_and_its_answer_is_the_outcome() -> None:
    story = Story(A, B)
    assert story.asked == (A, False)
    assert story.tried.edns
    assert isinstance(story.answered(after=0.02), Reply)
    assert upstream_of(story, A).rtt == pytest.approx(0.02)


def test_nxdomain_is_an_answer() -> None:
    story = Story(A, B)
    story.says(returns_rcode(dns.rcode.NXDOMAIN))
    assert isinstance(story.step, Reply)


def test_who_is_silent_is_still_listened_to_while_the_next_is_asked() -> None:
    story = Story(A, B)
    first = story.tried
    story.waits()
    assert story.asked == (B, False)
    assert isinstance(story.answered(first), Reply)
    assert upstream_of(story, A).rtt == pytest.approx(story.now - first.sent_at, rel=0.2)


def test_one_alone_is_asked_again_up_to_three_times_and_each_time_waited_for_longer() -> None:
    story = Story(A)
    begun, at = story.now, [0.0]
    while isinstance(story.waits(), Attempt):
        assert story.asked == (A, False)
        at.append(story.now - begun)
    pauses = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert 0.3 <= pauses[0] <= 0.8
    assert pauses == sorted(pauses)
    assert len(at) == MAX_ATTEMPTS
    while story.step is None:  # the last answer may still come
        story.waits()
    assert story.failure.kind is Kind.TIMED_OUT
    assert story.now - begun == pytest.approx(LIMIT_SECONDS)
    assert "192.0.2.1:53 within 3.8 s" in story.failure.text
    assert story.failure.ede == 22


def test_one_that_is_dead_is_asked_less_often() -> None:
    story = Story(A)
    while not isinstance(story.step, Failure):
        story.waits()
    later = Story(A, upstreams=story.upstreams)
    tries = 1
    while not isinstance(later.step, Failure):
        tries += isinstance(later.waits(), Attempt)
    assert tries == MAX_ATTEMPTS_ON_DEAD
    assert later.failure.kind is Kind.TIMED_OUT


def test_all_are_asked_before_one_is_asked_again() -> None:
    story = Story(A, B, C)
    order = [story.asked[0]]
    for _ in range(3):
        story.waits()
        order.append(story.asked[0])
    assert set(order[:3]) == {A, B, C}


def test_a_dead_one_is_not_asked_even_after_the_living_have_said_no() -> None:
    story = Story(A, B)
    for _ in range(3):
        upstream_of(story, B).fails()
    story.says(REFUSED)
    assert story.failure.kind is Kind.REFUSED


def test_nobody_to_ask_is_told_so() -> None:
    assert Story().failure.kind is Kind.NETWORK


# -- no -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP], ids=dns.rcode.to_text
)
def test_dns_32_an_error_is_taken_to_the_next(rcode: dns.rcode.Rcode) -> None:
    story = Story(A, B)
    story.says(returns_rcode(rcode))
    assert story.asked == (B, False)
    assert isinstance(story.answered(), Reply)
    assert upstream_of(story, A).refusals == 1


def test_when_all_say_no_that_is_the_outcome_at_once_with_the_best_of_what_they_said() -> None:
    story = Story(A, B, C)
    story.says(REFUSED)
    story.says(SERVFAIL)
    story.says(REFUSED)
    failure = story.failure
    assert failure.kind is Kind.SERVFAIL
    assert failure.reply is not None
    assert failure.reply.rcode == dns.rcode.SERVFAIL
    assert failure.text == "192.0.2.1:53 says REFUSED; 192.0.2.2:53 says SERVFAIL; 192.0.2.3:53 says REFUSED"


def test_who_is_not_there_is_left_at_once_and_counts_as_silent() -> None:
    story = Story(A, B)
    story.fails()
    assert story.asked == (B, False)
    story.fails()
    assert story.failure.kind is Kind.NETWORK
    assert story.failure.ede == 23
    for _ in range(2):
        upstream_of(story, A).fails()
    assert upstream_of(story, A).is_dead


def test_a_silent_one_is_waited_for_after_another_has_said_no() -> None:
    story = Story(A, B)
    first = story.tried
    story.waits()
    story.says(REFUSED)
    assert story.asked == (A, False)
    assert isinstance(story.answered(first), Reply)


def test_no_error_keeps_an_upstream_from_being_alive() -> None:
    story = Story(A)
    for _ in range(3):
        upstream_of(story, A).fails()
    story.says(SERVFAIL)
    assert not upstream_of(story, A).is_dead


# -- too long for UDP ---------------------------------------------------------------------------------------


def test_dns_32_what_is_truncated_is_asked_of_the_same_over_tcp() -> None:
    story = Story(A, B)
    story.truncated()
    assert story.asked == (A, True)
    assert isinstance(story.answered(), Reply)


def test_dns_32_after_tcp_has_failed_the_next_is_asked_over_tcp_too() -> None:
    story = Story(A, B)
    story.truncated()
    story.fails()
    assert story.asked == (B, True)
    assert not upstream_of(story, A).is_dead


def test_when_tcp_leads_nowhere_the_truncated_answer_is_the_best_there_is() -> None:
    story = Story(A)
    story.truncated()
    story.fails()
    assert story.failure.reply is not None
    assert story.failure.reply.truncated


def test_tcp_that_fails_says_nothing_of_the_upstream_over_udp() -> None:
    for _ in range(5):
        story = Story(A)
        story.truncated()
        story.fails()
        assert not upstream_of(story, A)._failures


def test_what_is_truncated_over_tcp_is_no_answer() -> None:
    story = Story(A, B)
    story.truncated()
    story.truncated()
    assert story.asked == (B, True)


# -- forged, or garbage -------------------------------------------------------------------------------------


def test_dns_31_another_id_does_not_count_and_does_not_end_the_wait() -> None:
    story = Story(A)
    tried = story.tried
    right = reply_to(story.asked_of(tried), "www.example. 60 A 192.0.2.1")
    for _ in range(MAX_BAD_REPLIES - 1):
        assert story.comes(b"\x12\x35" + right[2:], tried) is None
    assert isinstance(story.comes(right, tried), Reply)
    assert upstream_of(story, A).bad == story.upstreams.bad == MAX_BAD_REPLIES - 1


def test_dns_31_after_some_wrong_ids_it_is_asked_over_tcp_and_no_longer_listened_to() -> None:
    story = Story(A, B)
    tried = story.tried
    right = reply_to(story.asked_of(tried), "www.example. 60 A 192.0.2.1")
    for _ in range(MAX_BAD_REPLIES):
        story.comes(b"\x12\x35" + right[2:], tried)
    assert story.asked == (A, True)
    stream = story.tried
    assert story.comes(right, tried) is None
    assert not tried.is_open
    story.fails(stream)
    assert story.asked == (B, True)  # whoever forges for one can do so for another


def test_a_message_of_less_than_an_id_is_a_wrong_one() -> None:
    story = Story(A)
    tried = story.tried
    for message in (b"", b"\x12"):
        assert story.comes(message, tried) is None
    assert tried.is_open


def test_dns_31_another_question_does_not_count_and_is_asked_anew_over_tcp_while_the_answer_may_come() -> (
    None
):
    story = Story(A)
    tried = story.tried
    other = dns.message.make_query("other.example.", "A", id=0x1234).to_wire()
    forged = reply_to(story.asked_of(tried)._replace(message=other), "other.example. 60 A 203.0.113.1")
    story.comes(forged)
    assert story.asked == (A, True)
    assert story.comes(forged, tried) is None  # once is enough
    assert isinstance(story.answered(tried), Reply)


def test_garbage_over_udp_and_tcp_is_taken_to_the_next() -> None:
    story = Story(A, B)
    story.comes(b"\x12\x34" + b"\xff" * 40)
    assert story.asked == (A, True)
    story.comes(b"\x12\x34" + b"\xff" * 40)
    assert story.asked == (B, False)
    assert isinstance(story.answered(), Reply)


def test_garbage_alone_fails_without_waiting_for_more() -> None:
    story = Story(A)
    story.comes(b"\x12\x34" + b"\xff" * 40)
    story.comes(b"\x12\x34" + b"\xff" * 40)
    assert story.failure.kind is Kind.NETWORK
    assert "192.0.2.1:53 sends no usable answer" in story.failure.text


def test_an_error_without_the_question_is_believed_over_no_udp_but_asked_for_over_tcp() -> None:
    story = Story(A, B)
    story.says(returns_bare_rcode(dns.rcode.SERVFAIL))
    assert story.asked == (A, True)


# -- EDNS ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [returns_rcode, returns_bare_rcode], ids=["with the question", "bare"])
@pytest.mark.parametrize("rcode", [dns.rcode.FORMERR, dns.rcode.NOTIMP], ids=dns.rcode.to_text)
def test_who_does_not_know_edns_is_asked_without_and_remembered(
    act: Callable[[int], Behaviour], rcode: dns.rcode.Rcode
) -> None:
    story = Story(A, B)
    (sent,) = act(rcode)(story.asked_of(story.tried))
    assert sent.message is not None
    message = dns.message.from_wire(sent.message, ignore_trailing=True)
    message.use_edns(False)
    story.comes(message.to_wire())
    assert story.asked == (A, False)
    assert not story.tried.edns
    assert upstream_of(story, A).has_edns(story.now)  # it may be the question that it does not like
    assert isinstance(story.answered(), Reply)
    assert not upstream_of(story, A).has_edns(story.now)


def test_who_says_badvers_is_asked_without_edns() -> None:
    story = Story(A, B)
    story.says(returns_rcode(dns.rcode.BADVERS))
    assert story.asked == (A, False)
    assert not story.tried.edns


def test_who_knows_edns_and_says_formerr_is_not_asked_again() -> None:
    story = Story(A, B)
    story.says(returns_rcode(dns.rcode.FORMERR))
    assert story.asked == (B, False)


def test_who_says_formerr_to_everything_is_not_thought_to_lack_edns() -> None:
    story = Story(A, B)
    for _ in range(2):
        story.says(returns_bare_rcode(dns.rcode.FORMERR))
    assert story.asked[0] == A  # over TCP, since it does not say to what it says no
    story.says(returns_bare_rcode(dns.rcode.FORMERR))
    assert story.asked == (B, False)
    assert upstream_of(story, A).has_edns(story.now)


# -- TLS ----------------------------------------------------------------------------------------------------


def test_over_tls_nothing_goes_in_clear() -> None:
    story = Story(OVER_TLS)
    assert story.asked == (OVER_TLS, True)
    while isinstance(story.waits(), Attempt):
        assert story.asked == (OVER_TLS, True)


def test_tls_that_fails_counts_for_its_upstream() -> None:
    story = Story(OVER_TLS, A)
    story.fails()
    assert story.asked == (A, False)
    assert upstream_of(story, OVER_TLS)._failures == 1


# -- no file is left ----------------------------------------------------------------------------------------


def test_what_cannot_be_sent_for_want_of_files_is_tried_again_and_nobody_is_blamed() -> None:
    story = Story(A)
    story.sent(story.exchange.put_off(story.tried, story.now))
    assert story.step is None
    assert story.exchange.wake_at == pytest.approx(story.now + DEFER_SECONDS)
    story.waits()
    assert story.asked == (A, False)
    assert not upstream_of(story, A)._failures
    assert isinstance(story.answered(), Reply)


def test_without_a_file_to_the_end_that_is_the_reason() -> None:
    story = Story(A)
    begun = story.now
    while not isinstance(story.step, Failure):
        story.sent(story.exchange.put_off(story.tried, story.now))
        story.waits()
    assert story.failure.kind is Kind.OVERLOADED
    assert "no file" in story.failure.text
    assert story.now - begun == pytest.approx(LIMIT_SECONDS)


# -- only to learn of an upstream ---------------------------------------------------------------------------


def test_who_is_to_be_learnt_of_is_asked_once_and_alone() -> None:
    story = Story(A, B, only=B)
    begun = story.now
    assert story.asked == (B, False)
    while story.waits() is None:
        pass
    assert story.failure.kind is Kind.TIMED_OUT
    assert story.now - begun == pytest.approx(PROBE_LIMIT_SECONDS)
    assert upstream_of(story, B).timed_out == 1


@pytest.mark.parametrize("act", [REFUSED, SERVFAIL], ids=["REFUSED", "SERVFAIL"])
def test_any_answer_says_that_it_lives_and_none_is_held_against_it(act: Behaviour) -> None:
    story = Story(A, B, only=B)
    upstream = upstream_of(story, B)
    for _ in range(3):
        upstream.fails()
    story.says(act)
    assert not upstream.is_dead
    assert not upstream.refusals


def test_what_only_tells_of_an_upstream_need_not_be_whole() -> None:
    story = Story(A, only=A)
    assert isinstance(story.truncated(), Reply)


def test_what_only_tells_of_an_upstream_is_not_asked_over_tcp() -> None:
    story = Story(A, only=A)
    story.comes(b"\x12\x34" + b"\xff" * 40)
    assert story.failure.kind is Kind.NETWORK
