"""Aliases from upstreams that lead into the zones of this server."""

from __future__ import annotations

import dns.flags
import dns.rcode
import pytest

from tests.dns.helpers import put
from tests.forward.forwarder_helpers import Scene, data_of, extended_errors, forwarding, queries_to, rcode_of
from tests.forward.resolution_helpers import run
from tests.support.upstream import Behaviour, ReceivedQuery, Send, UpstreamServer, reply_to, returns_rcode
from zkdns.daemon.worker.deferred_answers import DeferredAnswers
from zkdns.transport.event_loop import deferrer

WEB = "web.staging.discovery"
NAME = "www.example"


def leads_to(
    *targets: str, ttl: int = 60, rcode: int = dns.rcode.NXDOMAIN, more: tuple[str, ...] = (), flags: int = 0
) -> Behaviour:
    """Reply with a chain of CNAME records to these targets."""

    def act(received: ReceivedQuery) -> list[Send]:
        owners = [received.name, *(f"{target}." for target in targets)]
        chain = [f"{owner} {ttl} CNAME {target}." for owner, target in zip(owners, targets, strict=False)]
        return [Send(reply_to(received, *chain, *more, rcode=rcode, flags=flags))]

    return act


def raise_error(error: Exception) -> None:
    raise error


def set_members(scene: Scene, *members: str, name: str = WEB) -> None:
    scene.authority.refresh(scene.table.apply(put(name, members)))


@pytest.mark.parametrize(
    "rcode", [dns.rcode.NXDOMAIN, dns.rcode.NOERROR, dns.rcode.SERVFAIL], ids=dns.rcode.to_text
)
@pytest.mark.parametrize("tcp", [False, True])
def test_client_gets_the_addresses_of_the_service(rcode: int, *, tcp: bool) -> None:
    """Whatever the upstream believes about a name that it does not know."""

    async def scenario() -> None:
        with UpstreamServer(leads_to(WEB, rcode=rcode)) as upstream:
            async with forwarding(upstream) as scene:
                set_members(scene, "10.0.0.1:80")
                for _ in range(3):
                    response = await scene.query("WWW.example", tcp=tcp)
                    assert rcode_of(response) == "NOERROR"
                    assert data_of(response) == [f"{WEB}.", "10.0.0.1"]
                    assert response.question[0].name.to_text() == "WWW.example."
                    assert response.flags & (dns.flags.RA | dns.flags.AA | dns.flags.AD) == dns.flags.RA
                assert queries_to(upstream, NAME) == 1 + (rcode == dns.rcode.SERVFAIL)  # without EDNS

    run(scenario)


def test_answer_is_current_and_rotates() -> None:
    async def scenario() -> None:
        with UpstreamServer(leads_to(WEB)) as upstream:
            async with forwarding(upstream) as scene:
                set_members(scene, "10.0.0.1:80", "10.0.0.2:80")
                first = {(await scene.data())[1] for _ in range(4)}
                assert first == {"10.0.0.1", "10.0.0.2"}
                set_members(scene, "10.0.0.3:80")
                assert await scene.data() == [f"{WEB}.", "10.0.0.3"]
                set_members(scene)
                response = await scene.query()
                assert (rcode_of(response), data_of(response)) == ("NOERROR", [f"{WEB}."])
                assert [record.name.to_text() for record in response.authority] == ["discovery."]
                assert queries_to(upstream, NAME) == 1

    run(scenario)


def test_a_service_whose_names_are_not_ready_is_answered_at_once() -> None:
    async def scenario() -> None:
        with UpstreamServer(leads_to(WEB)) as upstream:
            async with forwarding(upstream) as scene:
                DeferredAnswers(scene.authority.zone.steps, deferrer(), raise_error)
                set_members(scene, *(f"10.0.{n // 250}.{n % 250 + 1}:80" for n in range(2000)))
                response = await scene.query(tcp=True)
                assert (rcode_of(response), len(data_of(response))) == ("NOERROR", 2001)

    run(scenario)


def test_ttl_of_the_alias_counts_down_and_that_of_the_zone_does_not() -> None:
    async def scenario() -> None:
        with UpstreamServer(leads_to(WEB, ttl=60)) as upstream:
            async with forwarding(upstream) as scene:
                set_members(scene, "10.0.0.1:80")
                before = [rrset.ttl for rrset in (await scene.query()).answer]
                scene.pass_time(20)
                assert [rrset.ttl for rrset in (await scene.query()).answer] == [40, before[1]]
                scene.pass_time(40)
                upstream.set_behaviour(returns_rcode(dns.rcode.SERVFAIL))
                stale = await scene.query(size=1232)
                assert [rrset.ttl for rrset in stale.answer] == [30, before[1]]
                assert extended_errors(stale) == [3]

    run(scenario)


def test_alias_with_ttl_0_is_followed_too() -> None:
    async def scenario() -> None:
        with UpstreamServer(leads_to(WEB, ttl=0)) as upstream:
            async with forwarding(upstream) as scene:
                set_members(scene, "10.0.0.1:80")
                for _ in range(2):
                    assert await scene.data() == [f"{WEB}.", "10.0.0.1"]
                assert queries_to(upstream, NAME) == 2

    run(scenario)


def test_chain_ends_in_our_zone_even_if_the_upstream_continues_it() -> None:
    """Names in our zones are ours: the upstream's records for them are ignored."""
    more = ("web.staging.discovery. 60 CNAME evil.example.", "evil.example. 60 A 203.0.113.1")

    async def scenario() -> None:
        with UpstreamServer(leads_to("a.example", WEB, rcode=0, more=more)) as upstream:
            async with forwarding(upstream) as scene:
                set_members(scene, "10.0.0.1:80")
                assert await scene.data() == ["a.example.", f"{WEB}.", "10.0.0.1"]
        false = (f"{WEB}. 60 A 203.0.113.1",)
        with UpstreamServer(leads_to(WEB, rcode=0, more=false)) as upstream:
            async with forwarding(upstream) as scene:
                set_members(scene, "10.0.0.1:80")
                assert await scene.data() == [f"{WEB}.", "10.0.0.1"]

    run(scenario)


def test_a_label_that_ends_like_the_zone_is_not_in_it() -> None:
    target = r"web\009discovery"
    more = (f"{target}. 60 A 203.0.113.1",)

    async def scenario() -> None:
        with UpstreamServer(leads_to(target, rcode=0, more=more)) as upstream:
            async with forwarding(upstream) as scene:
                assert await scene.data() == [f"{target}.", "203.0.113.1"]

    run(scenario)


def test_name_that_does_not_exist_in_our_zone_is_nxdomain_with_the_alias() -> None:
    async def scenario() -> None:
        with UpstreamServer(leads_to("none.staging.discovery")) as upstream:
            async with forwarding(upstream) as scene:
                response = await scene.query()
                assert (rcode_of(response), data_of(response)) == ("NXDOMAIN", ["none.staging.discovery."])
                assert [record.name.to_text() for record in response.authority] == ["discovery."]
                set_members(scene, "10.0.0.1:80", name="none.staging.discovery")
                assert (await scene.data())[1:] == ["10.0.0.1"]

    run(scenario)


def test_zone_that_has_not_been_read_is_servfail() -> None:
    async def scenario() -> None:
        with UpstreamServer(leads_to(WEB)) as upstream:
            async with forwarding(upstream) as scene:
                scene.authority.set_health(ready=False, stale=False)
                response = await scene.query(size=1232)
                assert rcode_of(response) == "SERVFAIL"
                assert extended_errors(response) == [14]
                scene.authority.set_health(ready=True, stale=False)
                set_members(scene, "10.0.0.1:80")
                assert (await scene.data())[1:] == ["10.0.0.1"]

    run(scenario)


def test_srv_records_come_with_their_addresses() -> None:
    async def scenario() -> None:
        with UpstreamServer(leads_to(WEB)) as upstream:
            async with forwarding(upstream) as scene:
                set_members(scene, "10.0.0.1:8080")
                response = await scene.query(qtype="SRV", size=1232)
                target = f"m0.{WEB}."
                assert data_of(response) == [f"{WEB}.", f"0 100 8080 {target}"]
                assert [(rrset.name.to_text(), rrset[0].to_text()) for rrset in response.additional] == [
                    (target, "10.0.0.1")
                ]

    run(scenario)


@pytest.mark.parametrize(("tcp", "size"), [(False, None), (False, 1232), (True, None)])
def test_long_answers_are_truncated_at_a_record(size: int | None, *, tcp: bool) -> None:
    async def scenario() -> None:
        with UpstreamServer(leads_to(WEB)) as upstream:
            async with forwarding(upstream) as scene:
                set_members(scene, *(f"10.0.{n // 250}.{n % 250}:80" for n in range(500)))
                # dnspython retries a truncated response over TCP only on request.
                response = await scene.query(tcp=tcp, size=size)
                assert bool(response.flags & dns.flags.TC) == (not tcp)
                assert len(response.to_wire()) <= (65535 if tcp else size or 512)
                count = len(data_of(response)) - 1
                assert count == 500 if tcp else 20 < count < 80

    run(scenario)


@pytest.mark.parametrize("qtype", ["CNAME", "ANY", "DS"])
def test_questions_about_the_alias_itself_are_not_followed(qtype: str) -> None:
    async def scenario() -> None:
        with UpstreamServer(leads_to(WEB, rcode=0)) as upstream:
            async with forwarding(upstream) as scene:
                set_members(scene, "10.0.0.1:80")
                response = await scene.query(qtype=qtype)
                assert data_of(response) == [f"{WEB}."]
                assert not response.authority

    run(scenario)
