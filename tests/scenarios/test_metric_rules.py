"""Metrics of a real server after traffic of all kinds: exact values, naming rules, and the page metrics.md.

The rules: https://prometheus.io/docs/practices/naming/ and …/practices/instrumentation/.
"""

from __future__ import annotations

import re
import socket
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import dns.message
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.support.prometheus import find_program
from tests.support.server import ZkdnsServer
from tests.support.upstream import Send, UpstreamServer, answers, is_silent, reply_to, returns_rcode
from tests.support.waiting import PATIENCE, eventually
from zkdns.telemetry.stats import LATENCY_BUCKETS, SOURCES

pytestmark = pytest.mark.processes

PAGE = Path(__file__).parents[2] / "zkdns" / "docs" / "metrics.md"
BASE_UNITS = ("seconds", "bytes")
NO_BASE_UNITS = {
    "milliseconds",
    "ms",
    "microseconds",
    "us",
    "minutes",
    "hours",
    "days",
    "kilobytes",
    "megabytes",
}
WEB, WWW, FAILING = "web.staging.discovery", "www.example", "broken.example"
REPEATED = 5
# Without the label in the name, they would have the names of other metrics: zkdns_members, zkdns_responses,
# and process_cpu_seconds, which has one value for each target.
BY_LABEL = ("zkdns_service_", "zkdns_process_")


def scrape(server: ZkdnsServer, accept: str = "") -> tuple[str, str]:
    """Return the content type and the text."""
    request = urllib.request.Request(f"{server.admin}/metrics", headers={"Accept": accept})  # noqa: S310 - a local URL
    with urllib.request.urlopen(request, timeout=20.0) as response:  # noqa: S310 - a local URL
        return response.headers["Content-Type"], response.read().decode()


def families_of(server: ZkdnsServer) -> list[Metric]:
    return list(text_string_to_metric_families(scrape(server)[1]))


def samples_of(server: ZkdnsServer, name: str, *labels: str) -> Counter[tuple[str, ...]]:
    """Return the samples of that name that are not 0, by the values of these labels."""
    found: Counter[tuple[str, ...]] = Counter()
    for family in families_of(server):
        for sample in family.samples:
            if sample.name == name:
                found[tuple(sample.labels[label] for label in labels)] += int(sample.value)
    return +found


def query_without_question(server: ZkdnsServer) -> bytes:
    """Send a header that claims a question and has none, and return the response."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.sendto(b"id\1\0\0\1" + bytes(6), ("127.0.0.1", server.port))
        return sock.recv(512)


@pytest.fixture(scope="module")
def upstream() -> Iterator[UpstreamServer]:
    with UpstreamServer(answers) as resolver:
        resolver.set_behaviour(returns_rcode(2), FAILING)
        yield resolver


@pytest.fixture(scope="module")
def server(upstream: UpstreamServer) -> Iterator[ZkdnsServer]:
    """A server after queries of all kinds."""
    with ZkdnsServer("--demo", "--upstream", str(upstream.address)) as running:
        running.wait_ready()
        for tcp in (False, True):
            for _ in range(REPEATED):
                running.query(WEB, "A", tcp=tcp)
            running.query(WEB, "SRV", tcp=tcp)
            running.query(WEB, "TYPE65280", tcp=tcp)
            running.query("none.staging.discovery", "AAAA", tcp=tcp)
            running.query("version.bind", "TXT", tcp=tcp, rdclass="CH")
        running.query(WEB, "A", use_edns=1)
        for _ in range(REPEATED):
            running.query(WWW, "A")
        running.query(FAILING, "MX")
        assert query_without_question(running)[3] & 15 == 1
        eventually(
            lambda: (
                sum(samples_of(running, "zkdns_responses_total").values())
                == 2 * (REPEATED + 4) + REPEATED + 3
            )
        )
        yield running


def test_responses_are_counted_exactly_by_transport_type_and_code(server: ZkdnsServer) -> None:
    both = {
        ("A", "NOERROR"): REPEATED,
        ("SRV", "NOERROR"): 1,
        ("other", "NOERROR"): 1,
        ("AAAA", "NXDOMAIN"): 1,
        ("TXT", "REFUSED"): 1,
    }
    assert samples_of(server, "zkdns_responses_total", "transport", "type", "rcode") == {
        **{("tcp", *kind): count for kind, count in both.items()},
        **{("udp", *kind): count for kind, count in both.items()},
        ("udp", "A", "NOERROR"): 2 * REPEATED,
        ("udp", "A", "BADVERS"): 1,
        ("udp", "MX", "SERVFAIL"): 1,
        ("udp", "other", "FORMERR"): 1,
    }


def test_responses_are_counted_exactly_by_source(server: ZkdnsServer) -> None:
    """A repeated query hits the response cache; for a forwarded name only from the third time on."""
    assert samples_of(server, "zkdns_answers_total", "source") == {
        ("zone",): 2 * 4,
        ("response_cache",): 2 * (REPEATED - 1) + REPEATED - 3,
        ("refused",): 2 + 1 + 1,
        ("upstream",): 2,
        ("forward_cache",): 2,
    }


def test_each_response_has_a_latency(server: ZkdnsServer) -> None:
    assert samples_of(server, "zkdns_response_duration_seconds_count", "kind") == {
        ("cached",): REPEATED - 1 + REPEATED - 3,
        ("computed",): 2 * (REPEATED + 4) + REPEATED + 3 - 2 - (REPEATED - 1 + REPEATED - 3),
        ("forwarded",): 2,
    }
    [histogram] = [each for each in families_of(server) if each.name == "zkdns_response_duration_seconds"]
    for kind in ("cached", "computed", "forwarded"):
        own = [sample for sample in histogram.samples if sample.labels["kind"] == kind]
        ends = [(sample.labels["le"], sample.value) for sample in own if sample.name.endswith("_bucket")]
        assert [end for end, _ in ends] == [*map(str, LATENCY_BUCKETS), "+Inf"]
        assert [count for _, count in ends] == sorted(count for _, count in ends)
        [total] = [sample.value for sample in own if sample.name.endswith("_sum")]
        assert 0 < total < 5.0


# -- rules --------------------------------------------------------------------------------------------------


def test_names_have_a_prefix_base_units_and_the_right_suffix(server: ZkdnsServer) -> None:
    for family in families_of(server):
        assert re.fullmatch(r"(zkdns|process)(_[a-z]+)+", family.name), family.name
        assert NO_BASE_UNITS.isdisjoint(family.name.split("_")), family.name
        units = [unit for unit in BASE_UNITS if unit in family.name.split("_")]
        assert not units or family.name.endswith(tuple(units)), f"{family.name}: its unit must be last"
        assert not family.name.endswith(("_count", "_sum", "_bucket", "_total")), family.name
        samples = {sample.name for sample in family.samples}
        if family.type == "counter":
            assert samples <= {f"{family.name}_total"}, samples
        else:
            assert not any(name.endswith("_total") for name in samples), samples


def test_each_has_a_type_and_a_sentence_as_help(server: ZkdnsServer) -> None:
    for family in families_of(server):
        assert family.type in {"counter", "gauge", "histogram"}, family.name
        assert re.fullmatch(r"[A-Z0-9].{10,}\.|[A-Z0-9].*; .*[a-z]\.?", family.documentation), family


def test_labels_are_not_in_names_and_have_few_values(server: ZkdnsServer) -> None:
    for family in families_of(server):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        redundant = labels.intersection(family.name.split("_"))
        assert not redundant or family.name.startswith(BY_LABEL), (family.name, labels)
        for label in labels:
            assert re.fullmatch("[a-z]+", label)
            values = {sample.labels[label] for sample in family.samples}
            assert len(values) <= 20, (family.name, label, values)


def test_no_series_is_exported_twice_and_no_counter_is_negative(server: ZkdnsServer) -> None:
    samples = [sample for family in families_of(server) for sample in family.samples]
    series = Counter((sample.name, *sorted(sample.labels.items())) for sample in samples)
    assert [name for name, count in series.items() if count > 1] == []
    assert all(sample.value >= 0 for sample in samples)


def test_openmetrics_has_the_same_series(server: ZkdnsServer) -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5"
    content_type, text = scrape(server, accept)
    assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert text.endswith("# EOF\n")

    def series(families: Iterable[Metric]) -> dict[tuple[str, ...], Mapping[str, str]]:
        return {
            (sample.name, *map(str, sorted(sample.labels.items()))): sample.labels
            for family in families
            for sample in family.samples
        }

    assert series(read_openmetrics(text)) == series(families_of(server))  # type: ignore[no-untyped-call]
    assert scrape(server, "text/plain")[0] == "text/plain; version=0.0.4; charset=utf-8"


def test_promtool_accepts_the_metrics(server: ZkdnsServer) -> None:
    checked = subprocess.run(
        [find_program("promtool"), "check", "metrics"],
        input=scrape(server)[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert (checked.stdout, checked.stderr, checked.returncode) == ("", "", 0)


# -- the page of the metrics --------------------------------------------------------------------------------


def in_page() -> dict[str, set[str]]:
    """Return the metrics of the page's table with their labels."""
    rows = re.findall(r"^\| `(\w+)` \| \w+ \| ([^|]*)\|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def test_the_page_lists_each_metric_with_its_labels(server: ZkdnsServer) -> None:
    """Metrics that need ZooKeeper, a primary or secondaries are listed below."""
    page = in_page()
    exported: dict[str, set[str]] = {}
    for family in families_of(server):
        for sample in family.samples:
            name = family.name if family.type == "histogram" else sample.name
            exported.setdefault(name, set()).update(set(sample.labels) - {"le"})
    assert exported == {name: page.get(name) for name in exported}
    only_with_others = {
        "zkdns_zookeeper_state",
        "zkdns_zookeeper_stale_seconds",
        "zkdns_bad_members_total",
        "zkdns_ignored_fields_total",
        "zkdns_bad_names_total",
        "zkdns_znodes_passed_over",
        "zkdns_guard_holds_total",
        "zkdns_audit_repairs_total",
        "zkdns_zookeeper_delays_total",
        "zkdns_held_members",
        "zkdns_unread_znodes",
        "zkdns_zookeeper_digest",
        "zkdns_propagation_seconds",
        "zkdns_secondary_state",
        "zkdns_secondary_serial",
        "zkdns_secondary_stale_seconds",
        "zkdns_secondary_transfers_total",
        "zkdns_secondary_notifies_total",
        "zkdns_transfer_requests_total",
        "zkdns_transfers_running",
        "zkdns_transfer_sent_bytes_total",
        "zkdns_notifies_total",
        "zkdns_zone_serial",
        "zkdns_zone_bytes",
        "zkdns_transfer_journal_versions",
        "zkdns_transfer_journal_bytes",
    }
    assert page.keys() - exported.keys() == only_with_others
    assert all(source in PAGE.read_text(encoding="utf-8") for source in SOURCES)


# -- expired entries ----------------------------------------------------------------------------------------


def test_responses_from_expired_entries_are_counted_as_stale() -> None:
    with (
        UpstreamServer(lambda query: [Send(reply_to(query, f"{query.name} 1 A 192.0.2.1"))]) as resolver,
        ZkdnsServer("--demo", "--upstream", str(resolver.address)) as running,
    ):
        running.wait_ready()
        running.query(WWW, "A", use_edns=0)
        resolver.set_behaviour(is_silent)
        eventually(lambda: is_stale(running.query(WWW, "A", timeout=8.0, use_edns=0)))
        eventually(lambda: samples_of(running, "zkdns_answers_total", "source")["stale",])


def is_stale(response: dns.message.Message) -> bool:
    return any(int(getattr(option, "code", -1)) == 3 for option in response.options)
