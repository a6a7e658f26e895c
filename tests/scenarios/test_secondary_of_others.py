"""Secondaries of Knot, NSD and BIND, which serve the zone file of `zkdns dump`."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import httpx2
import pytest

from tests.cli import run
from tests.support.authorities import Authority, Bind, Knot, Nsd
from tests.support.loopback import free_port
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.processes

ZONE = "discovery"
WEB = "web.staging.discovery"
NOTIFIED = re.compile(r'zkdns_secondary_notifies_total{zone="discovery"} [1-9]')
STATIC = """
[services."web.staging"]
members = ["10.0.0.1:80", { host = "10.0.0.2", port = 80, additional = { admin = "10.0.0.9:9990" } }]
[services."db.prod"]
members = ["[2001:db8::1]:5432"]
"""


def dump(*source: str) -> str:
    result = run("dump", "--zone", ZONE, *source)
    assert not result.status, result
    return result.output


def records(text: str) -> list[str]:
    """The lines of a zone file, without the SOA record."""
    return sorted(line for line in text.splitlines() if "\tSOA\t" not in line and not line.startswith(";"))


def send_update(port: int, text: str, changed: str) -> None:
    """Change the zone of a primary into that of another zone file, by nsupdate."""
    deleted, added = (set(records(text)) - set(records(changed)), set(records(changed)) - set(records(text)))
    lines = [f"server 127.0.0.1 {port}", f"zone {ZONE}."]
    lines += [f"update delete {line}" for line in deleted] + [f"update add {line}" for line in added]
    script = "\n".join([*lines, "send", ""])
    subprocess.run(["nsupdate"], input=script, text=True, check=True, capture_output=True, timeout=30.0)


@pytest.mark.parametrize("kind", [Knot, Nsd, Bind], ids=lambda kind: kind.name)
def test_the_zone_file_of_a_zkdns_served_by_another_server(kind: type[Authority], tmp_path: Path) -> None:
    if kind.is_missing():
        pytest.skip(f"needs {kind.program} (Debian and Ubuntu: apt install {kind.package})")
    static, file = tmp_path / "static.toml", tmp_path / "discovery.zone"
    static.write_text(STATIC)
    text = dump("--static", str(static))
    file.write_text(text)
    port = free_port()
    other = kind({ZONE: file}, tmp_path, secondaries=[port])
    options = ("--primary", f"127.0.0.1:{other.port}", "--primary-refresh", "1")
    secondary = ZkdnsServer(*options, environment={"ZKDNS_LISTEN": f"127.0.0.1:{port}"})
    with secondary as server:
        with other:
            server.wait_ready()
            assert records(dump("--server", server.api)) == records(text)
            if kind is not Nsd:  # it does not support dynamic updates
                static.write_text(STATIC.replace("10.0.0.1:80", '10.0.0.1:80", "10.0.0.4:80'))
                changed = dump("--static", str(static))
                send_update(other.port, text, changed)
                eventually(lambda: records(dump("--server", server.api)) == records(changed))
                assert server.events("zone_transferred")[-1]["kind"] == "incremental"
                eventually(lambda: NOTIFIED.search(httpx2.get(f"{server.admin}/metrics").text))  # each second
            assert server.events("zone_digest_differs") == []
        eventually(lambda: server.events("zone_stale"))
        assert server.lookup(WEB) >= {"10.0.0.1", "10.0.0.2"}
        # It starts again with another zone.
        static.write_text(STATIC.replace("10.0.0.2", "10.0.0.3"))
        file.write_text(dump("--static", str(static)))
        file.with_suffix(".zone.jnl").unlink(missing_ok=True)  # the updates of BIND
        with other:
            eventually(lambda: server.lookup(WEB) == {"10.0.0.1", "10.0.0.3"})
            assert server.events("zone_current")
