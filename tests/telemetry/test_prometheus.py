"""Metrics in the Prometheus text format."""

import time
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from zkdns.telemetry.process_stats import ProcessStats
from zkdns.telemetry.prometheus import render
from zkdns.telemetry.stats import (
    PROPAGATION_BUCKETS,
    ForwardStats,
    NamespaceStats,
    ServerStats,
    ServiceMembers,
    UpstreamStats,
    WatcherStats,
    WorkerStats,
    ZoneDigest,
)

NAMESPACE = "/discovery/{environment}/{service}"
FULL = WatcherStats(
    state="unreachable",
    stale_since=0.0,
    namespaces=(
        # since the boot of this machine
        NamespaceStats(
            NAMESPACE,
            state="unreachable",
            stale_since=0.0,
            held=4,
            holds=8,
            unread=2,
            delays=3,
            digest="0010000000000001",
        ),
    ),
    services=3,
    alive=10,
    hidden=2,
    held=4,
    bad=1,
    bad_members={"json": 5, "port": 1},
    ignored_fields={"shard": 6},
    bad_names=2,
    passed_over=11,
    repairs=7,
    changes=9,
    joined=20,
    left=4,
    digests=(ZoneDigest("discovery", 14, "ffffffffffffffff"),),
)


def scrape(stats: WatcherStats | None) -> dict[tuple[str, ...], float]:
    """Return the samples by name and label values."""
    text = render(stats)
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_each_watcher_stat_is_a_metric() -> None:
    samples = scrape(FULL)
    stale = samples.pop(("zkdns_zookeeper_stale_seconds", NAMESPACE))
    samples = {key: value for key, value in samples.items() if not key[0].startswith("zkdns_propagation_")}
    assert samples == {
        ("zkdns_zookeeper_state", NAMESPACE, "reading"): 0,
        ("zkdns_zookeeper_state", NAMESPACE, "live"): 0,
        ("zkdns_zookeeper_state", NAMESPACE, "unreachable"): 1,
        ("zkdns_zookeeper_state", NAMESPACE, "readonly"): 0,
        ("zkdns_services",): 3,
        ("zkdns_members", "alive"): 10,
        ("zkdns_members", "hidden"): 2,
        ("zkdns_members", "held"): 4,
        ("zkdns_members", "bad"): 1,
        ("zkdns_bad_members_total", "json"): 5,
        ("zkdns_bad_members_total", "port"): 1,
        ("zkdns_ignored_fields_total", "shard"): 6,
        ("zkdns_bad_names_total",): 2,
        ("zkdns_znodes_passed_over",): 11,
        ("zkdns_audit_repairs_total",): 7,
        ("zkdns_guard_holds_total", NAMESPACE): 8,
        ("zkdns_held_members", NAMESPACE): 4,
        ("zkdns_zookeeper_delays_total", NAMESPACE): 3,
        ("zkdns_unread_znodes", NAMESPACE): 2,
        ("zkdns_table_changes_total",): 9,
        ("zkdns_joined_members_total",): 20,
        ("zkdns_left_members_total",): 4,
        ("zkdns_table_digest", "watcher", "discovery"): 2**53 - 1,
        ("zkdns_table_digest_members", "watcher", "discovery"): 14,
        ("zkdns_zookeeper_digest", NAMESPACE): 2**52 + 1,
    }
    assert 0.0 < stale <= time.monotonic()


def test_every_family_has_a_type_and_a_sentence_as_help() -> None:
    families = list(text_string_to_metric_families(render(FULL)))
    assert {family.name for family in families if family.type == "counter"} == {
        "zkdns_bad_members",
        "zkdns_ignored_fields",
        "zkdns_bad_names",
        "zkdns_audit_repairs",
        "zkdns_zookeeper_delays",
        "zkdns_guard_holds",
        "zkdns_table_changes",
        "zkdns_joined_members",
        "zkdns_left_members",
    }
    assert [family.name for family in families if family.type == "histogram"] == ["zkdns_propagation_seconds"]
    assert all(family.type in {"counter", "gauge", "histogram"} for family in families)
    assert all(family.documentation.endswith(".") or "; " in family.documentation for family in families)


def test_staleness_grows_and_is_0_while_connected() -> None:
    key = ("zkdns_zookeeper_stale_seconds", NAMESPACE)
    assert scrape(FULL)[key] < scrape(FULL)[key]
    connected = NamespaceStats(NAMESPACE, state="live")
    assert scrape(WatcherStats(state="live", namespaces=(connected,)))[key] == 0.0


@pytest.mark.parametrize("stats", [None, WatcherStats(services=1, alive=2)])
def test_unknown_stats_are_not_exported(stats: WatcherStats | None) -> None:
    samples = scrape(stats)
    assert not any("zookeeper" in name for name, *_ in samples)
    assert ("zkdns_members", "bad") not in samples
    assert bool(samples) == (stats is not None)


def test_each_worker_stat_is_a_metric() -> None:
    stats = WorkerStats(
        udp_queries=10,
        tcp_queries=2,
        tls_queries=1,
        response_cache_misses=3,
        response_cache_evictions=4,
        response_cache_entries=5,
        response_cache_bytes=600,
        waiting_for_services=11,
        unsent=7,
        tcp_connections=21,
        tcp_held_bytes=22,
        tcp_replaced_connections=24,
        tcp_dropped_connections=23,
        tls_connections=24,
        tls_handshakes=25,
        tls_failed_handshakes=26,
        truncated_over_tcp=8,
        refused=9,
        rate_limited=10,
    )
    text = render(None, [stats, None, WorkerStats(udp_queries=1)])
    samples = {
        (sample.name, sample.labels["worker"], sample.labels.get("transport", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert {name: value for (name, worker, _), value in samples.items() if worker == "0"} == {
        "zkdns_queries_total": 1,  # the last sample, of TLS
        "zkdns_response_cache_misses_total": 3,
        "zkdns_response_cache_evictions_total": 4,
        "zkdns_response_cache_entries": 5,
        "zkdns_response_cache_bytes": 600,
        "zkdns_large_service_waiting_queries": 11,
        "zkdns_unsent_responses_total": 7,
        "zkdns_tcp_connections": 21,
        "zkdns_tcp_held_bytes": 22,
        "zkdns_tcp_replaced_connections_total": 24,
        "zkdns_tcp_dropped_connections_total": 23,
        "zkdns_tls_connections": 24,
        "zkdns_tls_handshakes_total": 25,
        "zkdns_tls_failed_handshakes_total": 26,
        "zkdns_tcp_truncated_responses_total": 8,
        "zkdns_refused_clients_total": 9,
        "zkdns_rate_limited_queries_total": 10,
    }
    assert samples["zkdns_queries_total", "0", "udp"] == 10
    assert samples["zkdns_queries_total", "0", "tcp"] == 2
    assert samples["zkdns_queries_total", "2", "udp"] == 1
    assert {worker for _, worker, _ in samples} == {"0", "2"}


def test_each_forwarding_stat_is_a_metric() -> None:
    lively = UpstreamStats(
        address="192.0.2.1:53",
        domain="",
        is_dead=False,
        rtt_seconds=0.25,
        queries=8,
        timeouts=0,
        bad_messages=1,
    )
    dead = UpstreamStats(
        address="192.0.2.2:53",
        domain="corp.example",
        is_dead=True,
        rtt_seconds=None,
        queries=5,
        timeouts=4,
        bad_messages=0,
    )
    forward = ForwardStats(
        queries=1,
        waiting=2,
        failed=3,
        stale=4,
        overloaded=5,
        prefetched=6,
        filtered=10,
        cache_entries=7,
        cache_bytes=800,
        cache_evictions=9,
        upstreams=(lively, dead),
    )
    text = render(None, [WorkerStats(), WorkerStats(forward=forward)])
    samples = {
        (sample.name, sample.labels.get("address", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(("zkdns_forward", "zkdns_upstream"))
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
        ("zkdns_forward_filtered_answers_total", ""): 10,
        ("zkdns_forward_cache_entries", ""): 7,
        ("zkdns_forward_cache_bytes", ""): 800,
        ("zkdns_forward_cache_evictions_total", ""): 9,
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
    assert "zkdns_forward_cache_entries" not in render(None, [WorkerStats()])


def of_services(**fields: Any) -> dict[tuple[str, ...], float]:
    """Return the samples of the metrics by service, by name and label values."""
    text = render(None, server=ServerStats(version="1", started=0.0, **fields))
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("zkdns_service_")
    }


def test_the_members_of_each_service_are_metrics() -> None:
    members = {"web.prod": ServiceMembers("prod", 3, 1, 2)}
    samples = of_services(members=members, responses={"web.prod": 7}, all_responses=7, max_services=1)
    assert samples == {
        ("zkdns_service_members", "prod", "web.prod", "alive"): 3,
        ("zkdns_service_members", "prod", "web.prod", "hidden"): 1,
        ("zkdns_service_members", "prod", "web.prod", "held"): 2,
        ("zkdns_service_members_omitted",): 0,
        ("zkdns_service_responses_total", "web.prod"): 7,
        ("zkdns_service_responses_total", "(others)"): 0,
    }


def test_services_beyond_the_limit_are_added_up() -> None:
    members = {f"s{number}.prod": ServiceMembers("prod", number, 0, 1) for number in (4, 1, 3, 2)}
    responses = {"s4.prod": 10, "s1.prod": 20, "s2.prod": 30}
    samples = of_services(members=members, responses=responses, all_responses=100, max_services=2)
    assert {key for key in samples if key[-1] == "alive"} == {
        ("zkdns_service_members", "prod", "s1.prod", "alive"),
        ("zkdns_service_members", "prod", "s2.prod", "alive"),
        ("zkdns_service_members", "(others)", "(others)", "alive"),
    }
    assert samples["zkdns_service_members", "(others)", "(others)", "alive"] == 7
    assert samples["zkdns_service_members", "(others)", "(others)", "held"] == 2
    assert samples["zkdns_service_members_omitted",] == 2
    counted = {key[1]: value for key, value in samples.items() if key[0] == "zkdns_service_responses_total"}
    assert counted == {"s4.prod": 10, "s1.prod": 20, "(others)": 70}


def test_metrics_by_service_can_be_disabled() -> None:
    assert of_services(members={"web.prod": ServiceMembers("prod", 3, 1, 2)}) == {}


def test_each_process_has_its_resources() -> None:
    processes = {"supervisor": ProcessStats(1.5, 2, 3), "worker-0": ProcessStats(4.0, 5, 6)}
    text = render(None, server=ServerStats(version="1", started=0.0, processes=processes))
    samples = {
        (sample.name, sample.labels["process"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "process" in sample.labels
    }
    assert samples == {
        ("zkdns_process_cpu_seconds_total", "supervisor"): 1.5,
        ("zkdns_process_cpu_seconds_total", "worker-0"): 4.0,
        ("zkdns_process_resident_memory_bytes", "supervisor"): 2,
        ("zkdns_process_resident_memory_bytes", "worker-0"): 5,
        ("zkdns_process_open_fds", "supervisor"): 3,
        ("zkdns_process_open_fds", "worker-0"): 6,
    }


def test_the_propagation_of_changes_is_a_histogram() -> None:
    counts = [0] * (len(PROPAGATION_BUCKETS) + 1)
    counts[0], counts[2], counts[-1] = 3, 1, 1
    namespace = NamespaceStats(
        NAMESPACE, state="live", propagation_counts=tuple(counts), propagation_seconds=70.5
    )
    samples = scrape(WatcherStats(state="live", namespaces=(namespace,)))
    assert samples["zkdns_propagation_seconds_count", NAMESPACE] == 5
    assert samples["zkdns_propagation_seconds_sum", NAMESPACE] == 70.5
    below = [samples["zkdns_propagation_seconds_bucket", str(end), NAMESPACE] for end in PROPAGATION_BUCKETS]
    assert below == [3, 3, *[4] * (len(PROPAGATION_BUCKETS) - 2)]
    assert samples["zkdns_propagation_seconds_bucket", "+Inf", NAMESPACE] == 5
