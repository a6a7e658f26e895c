"""Kills processes of the server under test."""

from __future__ import annotations

import os
import signal
import time

from tests.faults.scenario import FaultScenario
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually


def kill(scenario: FaultScenario, role: str, pid: int | None = None) -> float:
    """Kill a process of a role, and wait until it is replaced; return the time of the kill."""
    victim, before = pid or scenario.server.pid_of(role), started(scenario.server, role)
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    if role == "worker":
        # Queries that it has received are lost. Others wait in the socket for the new worker.
        scenario.history.excused.append((killed - 0.1, time.monotonic()))
    scenario.killed += 1
    eventually(lambda: len(started(scenario.server, role)) > len(before))
    return killed


def started(server: ZkdnsServer, role: str) -> list[int]:
    """The process IDs of all processes with this role so far, in order."""
    return [entry["pid"] for entry in server.events("process_started") if entry["role"] == role]
