"""What a running server tells Prometheus, read as Prometheus does: how much happened between two looks."""

from __future__ import annotations

import http.client
import time
from collections import defaultdict
from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from zkdns.address import HostPort
from zkdns.errors import ZkdnsError
from zkdns.observe.quantile import quantile

_SECONDS = 5.0
_QUERIES, _ANSWERS, _RESPONSES = "zkdns_queries_total", "zkdns_answers_total", "zkdns_responses_total"
_BUCKETS = "zkdns_response_duration_seconds_bucket"

Labels = frozenset[tuple[str, str]]


class NotToldError(ZkdnsError):
    """There is nothing to be read, and the message says why."""


class Scrape(msgspec.Struct, frozen=True):
    """What was told at one moment."""

    at: float
    """By `time.monotonic`."""
    values: dict[str, dict[Labels, float]]
    """By the name of the sample, then by its labels."""

    def first(self, name: str) -> float | None:
        """The value of what has one; None: it is not told."""
        return next(iter(self.values.get(name, {}).values()), None)

    def total(self, name: str) -> int:
        """All values of that name together."""
        return int(sum(self.values.get(name, {}).values()))

    def by(self, name: str, label: str) -> dict[str, float]:
        """The values of that name by one of their labels, all that are alike together."""
        return _by(self.values.get(name, {}), label)


class Upstream(msgspec.Struct, frozen=True):
    """What is known of an upstream, by all workers together."""

    address: str
    domain: str
    """Whose names it is asked for; empty: all that are no other's."""
    dead: bool
    """Whether all workers ask others in its place."""
    rtt_seconds: float | None
    queries: float
    timeouts: float


class Glance(msgspec.Struct, frozen=True, kw_only=True):
    """What happened between two looks, per second and the most of it first, and how things stood then."""

    time: float
    """Of the second look, in seconds since 1970."""
    seconds: float
    """Between them."""
    version: str
    uptime_seconds: float
    queries: float
    transports: dict[str, float]
    sources: dict[str, float]
    types: dict[str, float]
    rcodes: dict[str, float]
    p50_seconds: float | None
    """So long half of the responses took at most; None: there were none."""
    p99_seconds: float | None
    memo_share: float | None
    """How many of the answers came from the memo, from 0 to 1."""
    cache_share: float | None
    """How many of those that the memo did not have, and are upstreams', came from the cache."""
    memo_answers: int
    memo_bytes: int
    cache_answers: int
    cache_bytes: int
    services: int
    members: dict[str, int]
    zookeeper: str | None
    """The state of what it said; None: it is not read."""
    zookeeper_stale_seconds: float
    upstreams: tuple[Upstream, ...]


def scrape(address: HostPort) -> Scrape:
    """Read what the server with this admin address tells.

    Raises:
        NotToldError: it tells nothing.
    """
    connection = http.client.HTTPConnection(address.host, address.port, timeout=_SECONDS)
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
    except OSError as error:
        raise NotToldError(f"no server answers at {address}: {error.strerror or error}") from None
    except http.client.HTTPException:
        raise NotToldError(f"what answers at {address} is no admin address of zkdns") from None
    finally:
        connection.close()
    values: dict[str, dict[Labels, float]] = defaultdict(dict)
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                values[sample.name][frozenset(sample.labels.items())] = sample.value
    except ValueError:
        values.clear()
    if response.status != HTTPStatus.OK or "zkdns_build_info" not in values:
        raise NotToldError(f"what answers at {address} is no admin address of zkdns")
    return Scrape(time.monotonic(), dict(values))


def glance(before: Scrape, after: Scrape) -> Glance:
    """What happened between two looks."""
    seconds = after.at - before.at

    def rates(name: str, label: str) -> dict[str, float]:
        each = {key: count / seconds for key, count in _by(_growth(before, after, name), label).items()}
        return dict(sorted(each.items(), key=lambda item: (-item[1], item[0])))

    sources, now = rates(_ANSWERS, "source"), time.time()
    of_upstreams = {key: rate for key, rate in sources.items() if key in {"cache", "upstream", "stale"}}
    waits = {float(end): count for end, count in _by(_growth(before, after, _BUCKETS), "le").items()}
    return Glance(
        time=now,
        seconds=seconds,
        version=next(iter(after.by("zkdns_build_info", "version")), ""),
        uptime_seconds=max(now - (after.first("process_start_time_seconds") or now), 0.0),
        queries=sum(rates(_QUERIES, "transport").values()),
        transports=rates(_QUERIES, "transport"),
        sources=sources,
        types=rates(_RESPONSES, "type"),
        rcodes=rates(_RESPONSES, "rcode"),
        p50_seconds=quantile(waits, 0.5),
        p99_seconds=quantile(waits, 0.99),
        memo_share=_share("memo", sources),
        cache_share=_share("cache", of_upstreams),
        memo_answers=after.total("zkdns_memo_answers"),
        memo_bytes=after.total("zkdns_memo_bytes"),
        cache_answers=after.total("zkdns_cache_answers"),
        cache_bytes=after.total("zkdns_cache_bytes"),
        services=after.total("zkdns_services"),
        members={state: int(count) for state, count in after.by("zkdns_members", "state").items()},
        zookeeper=next((key for key, on in after.by("zkdns_zookeeper_state", "state").items() if on), None),
        zookeeper_stale_seconds=after.first("zkdns_zookeeper_stale_seconds") or 0.0,
        upstreams=tuple(_upstreams(before, after)),
    )


def _upstreams(before: Scrape, after: Scrape) -> list[Upstream]:
    seconds = after.at - before.at

    def of_each(values: Mapping[Labels, float]) -> dict[tuple[str, str], list[float]]:
        each: dict[tuple[str, str], list[float]] = defaultdict(list)
        for labels, value in values.items():
            by_name = dict(labels)
            each[by_name["address"], by_name["domain"]].append(value)
        return each

    dead = of_each(after.values.get("zkdns_upstream_dead", {}))
    waits = of_each(after.values.get("zkdns_upstream_rtt_seconds", {}))
    queries = of_each(_growth(before, after, "zkdns_upstream_queries_total"))
    timeouts = of_each(_growth(before, after, "zkdns_upstream_timeouts_total"))
    found = [
        Upstream(
            *(address, domain, all(are_dead)),
            min(waits.get((address, domain), ()), default=None),
            sum(queries.get((address, domain), ())) / seconds,
            sum(timeouts.get((address, domain), ())) / seconds,
        )
        for (address, domain), are_dead in dead.items()
    ]
    return sorted(found, key=lambda one: (-one.queries, one.domain, one.address))


def _growth(before: Scrape, after: Scrape, name: str) -> dict[Labels, float]:
    """By how much counters have grown; one that is smaller than before began anew with its process."""
    earlier = before.values.get(name, {})
    return {
        labels: value - earlier.get(labels, 0.0) if value >= earlier.get(labels, 0.0) else value
        for labels, value in after.values.get(name, {}).items()
    }


def _by(values: Mapping[Labels, float], label: str) -> dict[str, float]:
    added: dict[str, float] = defaultdict(float)
    for labels, value in values.items():
        added[dict(labels)[label]] += value
    return dict(added)


def _share(part: str, rates: Mapping[str, float]) -> float | None:
    whole = sum(rates.values())
    return rates.get(part, 0.0) / whole if whole else None
