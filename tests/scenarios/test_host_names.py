"""Host names of members, resolved by the resolver of the machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import dns.rcode
import pytest

from tests.support.network import bind_mount_prefix, new_network
from tests.support.process_guard import running_guarded
from tests.support.upstream import Behaviour, ReceivedQuery, Send, UpstreamServer, reply_to, returns_rcode
from tests.support.waiting import eventually

pytestmark = pytest.mark.processes

SECONDS = 30.0  # failing look-ups have no guaranteed duration

# Resolves a name repeatedly without a delay, and prints its addresses after each change.
_LOOK_UP = """
import asyncio
from zkdns.daemon.watcher.host_resolver import HostResolver
from zkdns.namespace import ServiceName
from zkdns.serverset.changes import SetPut
from zkdns.serverset.member import Endpoint, Member
from zkdns.table import Table

table = Table()
table.apply(SetPut("static:web", ServiceName("web"), (Member("m0", Endpoint("db.example", 80)),)))

def publish(changes):
    for change in changes:
        if table.apply(change):
            print("addresses:", *change.addresses, flush=True)
    resolver.after_batch()

resolver = HostResolver(table, publish, refresh_seconds=0.0, retry_seconds=0.0)
asyncio.run(resolver.run())
"""


def has_records(*records: str, failing: str = "") -> Behaviour:
    """Answer with these records, each as `type data`; queries for the type `failing` get SERVFAIL."""

    def behaviour(query: ReceivedQuery) -> Iterable[Send]:
        qtype = query.query.question[0].rdtype.name
        if qtype == failing:
            return returns_rcode(dns.rcode.SERVFAIL)(query)
        found = [record for record in records if record.startswith(f"{qtype} ")]
        return [Send(reply_to(query, *(f"{query.name} 60 {record}" for record in found)))]

    return behaviour


def last_addresses(out: Path) -> str:
    """The addresses that were printed last."""
    return [line for line in out.read_text().splitlines() if line.startswith("addresses: ")][-1].partition(
        " "
    )[2]


def test_addresses_of_a_family_are_kept_while_its_lookups_fail(tmp_path: Path) -> None:
    if shutil.which("getent") is None:
        pytest.skip("needs the name service switch of glibc")
    resolv_conf, nsswitch, out = (tmp_path / name for name in ("resolv.conf", "nsswitch.conf", "out"))
    resolv_conf.write_text("nameserver 127.0.0.1\n")
    nsswitch.write_text("hosts: dns\n")
    prefix = bind_mount_prefix({"/etc/resolv.conf": resolv_conf, "/etc/nsswitch.conf": nsswitch})
    both = ("A 10.0.0.1", "AAAA 2001:db8::1")
    with (
        new_network() as network,
        network.entered(),
        UpstreamServer(has_records(*both), port=53) as resolver,
        out.open("wb") as stdout,
        running_guarded([*prefix, sys.executable, "-c", _LOOK_UP], stdout=stdout, stderr=subprocess.DEVNULL),
    ):
        for behaviour, expected in (
            (has_records(*both), "10.0.0.1 2001:db8::1"),
            (has_records("A 10.0.0.2", failing="AAAA"), "10.0.0.2 2001:db8::1"),
            (has_records("A 10.0.0.3"), "10.0.0.3"),
            (has_records(*both), "10.0.0.1 2001:db8::1"),
            (has_records("AAAA 2001:db8::2", failing="A"), "10.0.0.1 2001:db8::2"),
        ):
            resolver.set_behaviour(behaviour)
            eventually(lambda: last_addresses(out) == expected, SECONDS)  # noqa: B023 - called in this iteration
            before = len(resolver.queries)
            eventually(lambda: len(resolver.queries) > before + 10, SECONDS)  # noqa: B023 - called in this iteration
            assert last_addresses(out) == expected
