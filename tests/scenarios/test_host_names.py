"""Host names of members, on a machine whose own resolver alone is asked for them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import dns.rcode
import pytest

from tests.support.network import bind_mount_prefix, new_network
from tests.support.process_guard import guarded
from tests.support.upstream import Behaviour, ReceivedQuery, Send, UpstreamServer, reply_to, returns_rcode
from tests.support.waiting import eventually

pytestmark = [pytest.mark.processes, pytest.mark.punctual]

SECONDS = 30.0  # nothing is claimed of how long look-ups take that fail

# Looks a name up again at once, as no server would, and prints what is known of it whenever that changes.
_LOOK_UP = """
import asyncio
from zkdns.daemon import hosts
from zkdns.namespace import ServiceName
from zkdns.serverset.changes import SetPut
from zkdns.serverset.member import Endpoint, Member
from zkdns.table import Table

hosts.REFRESH_SECONDS = hosts.RETRY_SECONDS = 0.0
table = Table()
table.apply(SetPut("fixed:web", ServiceName("web"), (Member("m0", Endpoint("db.example", 80)),)))

def publish(changes):
    for change in changes:
        if table.apply(change):
            print("known:", *change.addresses, flush=True)
    resolver.wake()

resolver = hosts.HostResolver(table, publish)
asyncio.run(resolver.run())
"""


def knows(*records: str, failing: str = "") -> Behaviour:
    """What is answered with these, each as `type data`; look-ups of one type fail."""

    def act(asked: ReceivedQuery) -> Iterable[Send]:
        qtype = asked.query.question[0].rdtype.name
        if qtype == failing:
            return returns_rcode(dns.rcode.SERVFAIL)(asked)
        found = [record for record in records if record.startswith(f"{qtype} ")]
        return [Send(reply_to(asked, *(f"{asked.name} 60 {record}" for record in found)))]

    return act


def last_known(out: Path) -> str:
    """What was printed last."""
    return [line for line in out.read_text().splitlines() if line.startswith("known: ")][-1].partition(" ")[2]


def test_while_look_ups_fail_for_one_family_what_is_known_of_it_stands(tmp_path: Path) -> None:
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
        UpstreamServer(knows(*both), port=53) as resolver,
        out.open("wb") as stdout,
    ):
        process = subprocess.Popen(
            guarded([*prefix, sys.executable, "-c", _LOOK_UP]),
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            for act, known in (
                (knows(*both), "10.0.0.1 2001:db8::1"),
                (knows("A 10.0.0.2", failing="AAAA"), "10.0.0.2 2001:db8::1"),
                (knows("A 10.0.0.3"), "10.0.0.3"),
                (knows(*both), "10.0.0.1 2001:db8::1"),
                (knows("AAAA 2001:db8::2", failing="A"), "10.0.0.1 2001:db8::2"),
            ):
                resolver.set_behaviour(act)
                eventually(lambda: last_known(out) == known, SECONDS)  # noqa: B023 - used at once
                before = len(resolver.queries)
                eventually(lambda: len(resolver.queries) > before + 10, SECONDS)  # noqa: B023 - as above
                assert last_known(out) == known
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
