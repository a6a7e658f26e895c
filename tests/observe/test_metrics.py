"""Figures as Prometheus reads them."""

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from zkdns.observe.figures import AnswererFigures, ForwardFigures, UpstreamFigures, WatcherFigures
from zkdns.observe.metrics import render

FULL = WatcherFigures(
    state="away",
    stale_since=0.0,  # whenever this machine was started
    services=3,
    alive=10,
    hidden=2,
    held=4,
    bad=1,
    bad_members={"json": 5, "port": 1},
    bad_names=2,
    repairs=7,
    holds=8,
    changes=9,
    joined=20,
    left=4,
)


def scrape(figures: WatcherFigures | None) -> dict[tuple[str, ...], float]:
    """The samples by name and labels' values."""
    text = render(figures)
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_each_figure_has_its_name() -> None:
    samples = scrape(FULL)
    stale = samples.pop(("zkdns_zookeeper_stale_seconds",))
    assert samples == {
        ("zkdns_zookeeper_state", "reading"): 0,
        ("zkdns_zookeeper_state", "live"): 0,
        ("zkdns_zookeeper_state", "away"): 1,
        ("zkdns_zookeeper_state", "readonly"): 0,
        ("zkdns_services",): 3,
        ("zkdns_members", "alive"): 10,
        ("zkdns_members", "hidden"): 2,
        ("zkdns_members", "held"): 4,
        ("zkdns_members", "bad"): 1,
        ("zkdns_bad_members_total", "json"): 5,
        ("zkdns_bad_members_total", "port"): 1,
        ("zkdns_bad_names_total",): 2,
        ("zkdns_audit_repairs_total",): 7,
        ("zkdns_guard_holds_total",): 8,
        ("zkdns_table_changes_total",): 9,
        ("zkdns_joined_members_total",): 20,
        ("zkdns_left_members_total",): 4,
    }
    assert 0.0 < stale <= time.monotonic()


def test_every_family_has_a_type_and_a_help_that_is_a_sentence() -> None:
    families = list(text_string_to_metric_families(render(FULL)))
    assert {family.name for family in families if family.type == "counter"} == {
        "zkdns_bad_members",
        "zkdns_bad_names",
        "zkdns_audit_repairs",
        "zkdns_guard_holds",
        "zkdns_table_changes",
        "zkdns_joined_members",
        "zkdns_left_members",
    }
    assert all(family.type in {"counter", "gauge"} for family in families)
    assert all(family.documentation.endswith(".") or "; " in family.documentation for family in families)


def test_staleness_grows_between_two_scrapes_and_is_0_in_reach() -> None:
    key = ("zkdns_zookeeper_stale_seconds",)
    assert scrape(FULL)[key] < scrape(FULL)[key]
    assert scrape(WatcherFigures(state="live"))[key] == 0.0


@pytest.mark.parametrize("figures", [None, WatcherFigures(services=1, alive=2)])
def test_what_is_not_known_is_not_told(figures: WatcherFigures | None) -> None:
    samples = scrape(figures)
    assert not any("zookeeper" in name for name, *_ in samples)
    assert ("zkdns_members", "bad") not in samples
    assert bool(samples) == (figures is not None)


def test_of_each_worker_there_is_what_it_counts() -> None:
    figures = AnswererFigures(
        udp_queries=10,
        tcp_queries=2,
        misses=3,
        forgotten=4,
        remembered=5,
        remembered_bytes=600,
        unsent=7,
        cut_over_tcp=8,
        refused=9,
        limited=10,
    )
    text = render(None, [figures, None, AnswererFigures(udp_queries=1)])
    samples = {
        (sample.name, sample.labels["worker"], sample.labels.get("transport", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert {name: value for (name, worker, _), value in samples.items() if worker == "0"} == {
        "zkdns_queries_total": 2,  # the last one's, which is TCP's
        "zkdns_memo_misses_total": 3,
        "zkdns_memo_evictions_total": 4,
        "zkdns_memo_answers": 5,
        "zkdns_memo_bytes": 600,
        "zkdns_unsent_responses_total": 7,
        "zkdns_tcp_truncated_responses_total": 8,
        "zkdns_refused_askers_total": 9,
        "zkdns_rate_limited_queries_total": 10,
    }
    assert samples["zkdns_queries_total", "0", "udp"] == 10
    assert samples["zkdns_queries_total", "2", "udp"] == 1
    assert {worker for _, worker, _ in samples} == {"0", "2"}


def test_of_forwarding_there_is_what_each_worker_counts_and_knows_of_upstreams() -> None:
    lively = UpstreamFigures(
        address="192.0.2.1:53", domain="", is_dead=False, seconds=0.25, queries=8, timeouts=0, bad=1
    )
    dead = UpstreamFigures(
        address="192.0.2.2:53",
        domain="corp.example",
        is_dead=True,
        seconds=None,
        queries=5,
        timeouts=4,
        bad=0,
    )
    forward = ForwardFigures(
        queries=1,
        waiting=2,
        failed=3,
        stale=4,
        overloaded=5,
        prefetched=6,
        cached=7,
        cached_bytes=800,
        evicted=9,
        upstreams=(lively, dead),
    )
    text = render(None, [AnswererFigures(), AnswererFigures(forward=forward)])
    samples = {
        (sample.name, sample.labels.get("address", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(("zkdns_forward", "zkdns_cache", "zkdns_upstream"))
        and sample.labels["worker"] == "1"
        and (sample.labels.get("domain") or "") in ("", "corp.example")
    }
    assert samples == {
        ("zkdns_forwarded_queries_total", ""): 1,
        ("zkdns_forward_waiting_queries", ""): 2,
        ("zkdns_forward_failures_total", ""): 3,
        ("zkdns_forward_stale_answers_total", ""): 4,
        ("zkdns_forward_overloads_total", ""): 5,
        ("zkdns_forward_prefetches_total", ""): 6,
        ("zkdns_cache_answers", ""): 7,
        ("zkdns_cache_bytes", ""): 800,
        ("zkdns_cache_evictions_total", ""): 9,
        ("zkdns_upstream_dead", "192.0.2.1:53"): 0,
        ("zkdns_upstream_dead", "192.0.2.2:53"): 1,
        ("zkdns_upstream_rtt_seconds", "192.0.2.1:53"): 0.25,
        ("zkdns_upstream_queries_total", "192.0.2.1:53"): 8,
        ("zkdns_upstream_queries_total", "192.0.2.2:53"): 5,
        ("zkdns_upstream_timeouts_total", "192.0.2.1:53"): 0,
        ("zkdns_upstream_timeouts_total", "192.0.2.2:53"): 4,
        ("zkdns_upstream_bad_messages_total", "192.0.2.1:53"): 1,
        ("zkdns_upstream_bad_messages_total", "192.0.2.2:53"): 0,
    }
    assert "zkdns_cache_answers" not in render(None, [AnswererFigures()])
