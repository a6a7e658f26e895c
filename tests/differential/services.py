"""Services of every kind for the differential test: znodes, a static file, and the configuration."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

SEED = 20

ZONES = ("discovery", "deep.inner.discovery", "aurora")
"""One zone is below another, with an empty name between them."""

MAX_ANSWERS = 3
"""`max_answers` of the service `few.special`."""

CONFIGURATION = """
zookeeper.hosts = "{zookeeper}"
static = "{static}"
forward.upstreams = "none"
negative_ttl = 3
dns_sd = true
[[namespace]]
path = "/discovery/{{environment}}/{{service}}"
[[namespace]]
path = "/nested/{{service}}"
zone = "deep.inner.discovery"
[[namespace]]
path = "/aurora/{{role}}/{{environment}}/{{job}}"
zone = "aurora"
[service."ttl.special"]
ttl = 77
[service."few.special"]
max_answers = 3
[service."lot.special"]
order = "random"
[service."still.special"]
order = "fixed"
"""

STATIC = """
[services."fixed.special"]
members = ["192.0.2.1:80", "[2001:db8::1]:80", { host = "localhost", port = 81, shard = 7 }]
[services."mixed.special"]
members = ["198.51.100.1:443"]
[services."elsewhere.special"]
members = [{ host = "192.0.2.9", port = 1, additional = { stats = "192.0.2.10:2", "a.b" = "192.0.2.11:3" } }]
[services."unresolved.special"]
members = ["nowhere.invalid:80"]
[services."idle.special"]
members = []
"""

_OLD = "X" * 63
_SERVICES = {
    # Names that are legal for znodes, but special in zone files or unusual in DNS.
    "/discovery/odd/caffè": 2,
    "/discovery/odd/with space": 2,
    '/discovery/odd/"quoted"': 2,
    "/discovery/odd/semi;colon": 2,
    "/discovery/odd/back\\slash": 2,
    "/discovery/odd/@": 2,
    "/discovery/odd/$ORIGIN": 2,
    "/discovery/odd/(brackets)": 2,
    "/discovery/odd/_underscore": 2,
    "/discovery/odd/007": 2,
    "/discovery/star/*": 2,
    f"/discovery/odd/{_OLD}": 3,
    f"/discovery/{'e' * 60}/{'a' * 60}.{'b' * 60}.{'c' * 40}": 3,
    # Names that contain other names, or lie between them.
    "/discovery/staging/api.v2": 3,
    "/discovery/staging/v2": 1,
    "/discovery/staging/m0.web": 1,
    "/discovery/staging/_web._tcp": 2,
    "/discovery/staging/web": 5,
    "/discovery/staging/a.b.c.d": 2,
    "/discovery/staging/empty": 0,
    "/discovery/Case/Upper": 2,
    "/discovery/Case/upper": 2,
    "/discovery/case/upper": 2,
    # Answers around the size limits of messages.
    "/discovery/sizes/two": 2,
    **{f"/discovery/sizes/about{count}": count for count in range(8, 34)},
    "/discovery/sizes/hundred": 100,
    "/discovery/sizes/four-hundred": 400,
    "/discovery/sizes/thousands": 2200,
    "/discovery/special/ttl": 4,
    "/discovery/special/few": 7,
    "/discovery/special/lot": 7,
    "/discovery/special/still": 7,
    "/discovery/special/mixed": 4,
    "/discovery/special/weighty": 6,
    "/discovery/special/drained": 3,
    "/discovery/special/same": 4,
    "/nested/web": 3,
    "/nested/two.labels": 2,
    "/aurora/www/prod/hello": 6,
    "/aurora/www/devel/hello": 1,
}

_WEIGHTS: dict[str, list[float]] = {
    "/discovery/special/weighty": [0.5, 2, 0, -1, 700, 1],
    "/discovery/special/drained": [0, 0, 0],
}


def znodes() -> Iterator[tuple[str, bytes]]:
    """Path and data of each znode, without its parents."""
    rng = random.Random(SEED)
    for path, count in _SERVICES.items():
        yield path, b""
        for number in range(count):
            yield f"{path}/member_{number:010d}", json.dumps(_member(rng, path, number)).encode()
        if weights := _WEIGHTS.get(path):
            vector = [
                {"select": f"member=member_{number:010d}", "weight": weight, "priority": 1}
                for number, weight in enumerate(weights)
            ]
            yield f"{path}/vector_0000000000", json.dumps({"vector": vector}).encode()


def _member(rng: random.Random, path: str, number: int) -> dict[str, Any]:
    """A random member; for some services, one with fixed properties."""
    if path.endswith("/same"):
        return _registered("10.9.9.9", 80 + number // 2)
    ipv6 = "/sizes/" not in path and rng.random() < 0.3
    host = (
        f"2001:db8::{rng.getrandbits(16):x}"
        if ipv6
        else f"10.{rng.getrandbits(8)}.{number >> 8}.{number & 255}"
    )
    more: dict[str, Any] = {}
    if rng.random() < 0.4:
        more["shard"] = number % 5
    if rng.random() < 0.1 and number:
        more["status"] = "STARTING"
    if rng.random() < 0.3 and "/sizes/" not in path:
        elsewhere = f"10.200.{rng.getrandbits(8)}.1"
        more["additionalEndpoints"] = {
            "admin": {"host": host, "port": 9990},
            rng.choice(("Http", "v2.stats", "x" * 62)): {"host": elsewhere, "port": 9991},
        }
    return _registered(host, rng.randrange(1, 65536), **more)


def _registered(host: str, port: int, **more: Any) -> dict[str, Any]:
    member = {"serviceEndpoint": {"host": host, "port": port}, "additionalEndpoints": {}, "status": "ALIVE"}
    return {**member, **more}
