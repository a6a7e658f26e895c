"""What a whole server tells Prometheus after traffic of all kinds: exactly, by the rules, as the README says.

The rules: https://prometheus.io/docs/practices/naming/ and …/practices/instrumentation/.
"""

from __future__ import annotations

import re
import shutil
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

from tests.support.server import ZkdnsServer
from tests.support.upstream import Resolver, Sent, answers, is_silent, reply_to, says
from tests.support.waiting import eventually
from zkdns.observe.figures import LATENCY_BUCKETS, SOURCES

pytestmark = [pytest.mark.processes, pytest.mark.punctual]

README = Path(__file__).parent.parent.parent / "README.md"
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


def scrape(server: ZkdnsServer, accept: str = "") -> tuple[str, str]:
    """The content type and the text."""
    asked = urllib.request.Request(f"{server.admin}/metrics", headers={"Accept": accept})  # noqa: S310 - of our own
    with urllib.request.urlopen(asked, timeout=20.0) as response:  # noqa: S310 - as above
        return response.headers["Content-Type"], response.read().decode()


def families_of(server: ZkdnsServer) -> list[Metric]:
    return list(text_string_to_metric_families(scrape(server)[1]))


def told(server: ZkdnsServer, name: str, *labels: str) -> Counter[tuple[str, ...]]:
    """The samples of that name that are not 0, by the values of these labels."""
    found: Counter[tuple[str, ...]] = Counter()
    for family in families_of(server):
        for sample in family.samples:
            if sample.name == name:
                found[tuple(sample.labels[label] for label in labels)] += int(sample.value)
    return +found


def ask_for_nothing(server: ZkdnsServer) -> bytes:
    """What comes back for a header that claims a question and has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5.0)
        sock.sendto(b"id\1\0\0\1" + bytes(6), ("127.0.0.1", server.port))
        return sock.recv(512)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Resolver]:
    with Resolver(answers) as resolver:
        resolver.acts(says(2), FAILING)
        yield resolver


@pytest.fixture(scope="module")
def server(upstream: Resolver) -> Iterator[ZkdnsServer]:
    """One that was asked for everything there is."""
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
        assert ask_for_nothing(running)[3] & 15 == 1
        eventually(
            lambda: sum(told(running, "zkdns_responses_total").values()) == 2 * (REPEATED + 4) + REPEATED + 3
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
    assert told(server, "zkdns_responses_total", "transport", "type", "rcode") == {
        **{("tcp", *kind): count for kind, count in both.items()},
        **{("udp", *kind): count for kind, count in both.items()},
        ("udp", "A", "NOERROR"): 2 * REPEATED,
        ("udp", "A", "BADVERS"): 1,
        ("udp", "MX", "SERVFAIL"): 1,
        ("udp", "other", "FORMERR"): 1,
    }


def test_they_are_counted_exactly_by_what_they_were_made_from(server: ZkdnsServer) -> None:
    """What is asked twice comes from the memo; what upstreams said, when it has been asked for once more."""
    assert told(server, "zkdns_answers_total", "source") == {
        ("zone",): 2 * 4,
        ("memo",): 2 * (REPEATED - 1) + REPEATED - 3,
        ("refused",): 2 + 1 + 1,
        ("upstream",): 2,
        ("cache",): 2,
    }


def test_each_response_took_its_time(server: ZkdnsServer) -> None:
    assert told(server, "zkdns_response_duration_seconds_count", "kind") == {
        ("remembered",): REPEATED - 1 + REPEATED - 3,
        ("made",): 2 * (REPEATED + 4) + REPEATED + 3 - 2 - (REPEATED - 1 + REPEATED - 3),
        ("later",): 2,
    }
    [histogram] = [each for each in families_of(server) if each.name == "zkdns_response_duration_seconds"]
    for kind in ("remembered", "made", "later"):
        own = [sample for sample in histogram.samples if sample.labels["kind"] == kind]
        ends = [(sample.labels["le"], sample.value) for sample in own if sample.name.endswith("_bucket")]
        assert [end for end, _ in ends] == [*map(str, LATENCY_BUCKETS), "+Inf"]
        assert [count for _, count in ends] == sorted(count for _, count in ends)
        [total] = [sample.value for sample in own if sample.name.endswith("_sum")]
        assert 0 < total < 5.0


# -- rules --------------------------------------------------------------------------------------------------


def test_names_have_a_prefix_base_units_and_a_suffix_that_says_what_they_are(server: ZkdnsServer) -> None:
    for family in families_of(server):
        assert re.fullmatch(r"(zkdns|process)(_[a-z]+)+", family.name), family.name
        assert NO_BASE_UNITS.isdisjoint(family.name.split("_")), family.name
        units = [unit for unit in BASE_UNITS if unit in family.name.split("_")]
        assert not units or family.name.endswith(tuple(units)), f"{family.name}: its unit stands last"
        assert not family.name.endswith(("_count", "_sum", "_bucket", "_total")), family.name
        samples = {sample.name for sample in family.samples}
        if family.type == "counter":
            assert samples <= {f"{family.name}_total"}, samples
        else:
            assert not any(name.endswith("_total") for name in samples), samples


def test_each_has_a_help_that_is_a_sentence_and_a_type(server: ZkdnsServer) -> None:
    for family in families_of(server):
        assert family.type in {"counter", "gauge", "histogram"}, family.name
        assert re.fullmatch(r"[A-Z0-9].{10,}\.|[A-Z0-9].*; .*[a-z]\.?", family.documentation), family


def test_labels_stand_in_no_name_and_have_few_values(server: ZkdnsServer) -> None:
    for family in families_of(server):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert labels.isdisjoint(family.name.split("_")), (family.name, labels)
        for label in labels:
            assert re.fullmatch("[a-z]+", label)
            values = {sample.labels[label] for sample in family.samples}
            assert len(values) <= 20, (family.name, label, values)


def test_no_series_is_told_twice_and_no_counter_is_below_zero(server: ZkdnsServer) -> None:
    samples = [sample for family in families_of(server) for sample in family.samples]
    series = Counter((sample.name, *sorted(sample.labels.items())) for sample in samples)
    assert [one for one, count in series.items() if count > 1] == []
    assert all(sample.value >= 0 for sample in samples)


def test_openmetrics_says_the_same_to_who_asks_for_it(server: ZkdnsServer) -> None:
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


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool here")
def test_promtool_finds_nothing_to_complain_of(server: ZkdnsServer) -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=scrape(server)[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert (checked.stdout, checked.stderr, checked.returncode) == ("", "", 0)


# -- the README ---------------------------------------------------------------------------------------------


def in_readme() -> dict[str, set[str]]:
    """The metrics of the README's table, with their labels."""
    table = README.read_text(encoding="utf-8").partition("| metric | what it says |")[2].partition("\n\n")[0]
    written = re.findall(r"`((?:zkdns|process)_[a-z_]+)(?:{([a-z,]+)})?`", table)
    return {name: set(labels.split(",")) - {""} for name, labels in written}


def test_the_readme_has_each_with_its_labels(server: ZkdnsServer) -> None:
    """But for what only a server with ZooKeeper has."""
    readme = in_readme()
    told_of: dict[str, set[str]] = {}
    for family in families_of(server):
        for sample in family.samples:
            name = family.name if family.type == "histogram" else sample.name
            told_of.setdefault(name, set()).update(set(sample.labels) - {"le"})
    assert told_of == {name: readme.get(name) for name in told_of}
    only_with_zookeeper = {
        "zkdns_zookeeper_state",
        "zkdns_zookeeper_stale_seconds",
        "zkdns_bad_members_total",
        "zkdns_bad_names_total",
        "zkdns_guard_holds_total",
        "zkdns_audit_repairs_total",
    }
    assert readme.keys() - told_of.keys() == only_with_zookeeper
    assert all(source in README.read_text(encoding="utf-8") for source in SOURCES)


# -- what time brings ---------------------------------------------------------------------------------------


def test_what_upstreams_said_once_is_counted_as_stale() -> None:
    with (
        Resolver(lambda asked: [Sent(reply_to(asked, f"{asked.name} 1 A 192.0.2.1"))]) as resolver,
        ZkdnsServer("--demo", "--upstream", str(resolver.address)) as running,
    ):
        running.wait_ready()
        running.query(WWW, "A", use_edns=0)
        resolver.acts(is_silent)
        eventually(lambda: is_stale(running.query(WWW, "A", timeout=8.0, use_edns=0)))
        eventually(lambda: told(running, "zkdns_answers_total", "source")["stale",])


def is_stale(response: dns.message.Message) -> bool:
    return any(int(getattr(option, "code", -1)) == 3 for option in response.options)
