"""Members in a process of their own, registered with the library's registrations, which lose their sessions.

The library registers a member again when its session has expired, so its lifetime in the history goes on.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Self

from tests.faults.history import History, MemberLifetime
from tests.support.process_guard import kill_guarded, start_guarded

MEMBER_SESSION = 5.0
"""The session timeout of members in seconds: the default of registrations."""
_START_SECONDS = 30.0

_PROGRAM = """\
import json, signal, sys
from zkdns import ServerSet
hosts, seconds, members = json.loads(sys.argv[1])
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
sets = [ServerSet("staging", service, hosts, session_timeout=seconds) for service, _, _ in members]
registrations = [
    found.register(host, port, timeout=None) for found, (_, host, port) in zip(sets, members)
]
if all(registration.wait(30) for registration in registrations):
    print("registered", flush=True)
    signal.sigwait({signal.SIGTERM})
for registration in registrations:
    registration.close()
"""


class MemberProcess:
    """A process with some members of each service, each with a session of its own.

    Entering the context starts it, and waits until all members are registered. Leaving the context kills it.

    Args:
        history: where the members are recorded. Their services are recorded too, if they are new.
        hosts: the ZooKeeper addresses for the members.
        counts: the number of members by service.
    """

    def __init__(self, history: History, hosts: str, counts: Mapping[str, int]) -> None:
        self.members: list[MemberLifetime] = []
        self._history = history
        self._hosts = hosts
        self._counts = counts
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        now = time.monotonic()
        new = [service for service in self._counts if service not in self._history.services]
        created = [self._history.add_service(service) for service in new]
        self.members = [
            self._history.new_member(service) for service, count in self._counts.items() for _ in range(count)
        ]
        arguments = [(member.service, member.address, member.port) for member in self.members]
        command = [sys.executable, "-c", _PROGRAM, json.dumps([self._hosts, MEMBER_SESSION, arguments])]
        self._process = start_guarded(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        try:
            select.select([self._process.stdout], [], [], now + _START_SECONDS - time.monotonic())
            os.set_blocking(self._process.stdout.fileno(), False)
            found = self._process.stdout.read() or b""
            assert found.startswith(b"registered"), f"the members are not registered in time: {found!r}"
        except BaseException:
            self.kill()
            raise
        now = time.monotonic()
        for lifetime in (*created, *self.members):
            lifetime.created = now
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def leave(self) -> None:
        """End it in good order: the members deregister. The history does not record that; see `deletion`."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGTERM)
        self._process.wait(_START_SECONDS)

    def kill(self) -> None:
        """Kill it: the sessions of its members expire. The history does not record that; see `deletion`."""
        if self._process is not None:
            kill_guarded(self._process)
            self._process = None
