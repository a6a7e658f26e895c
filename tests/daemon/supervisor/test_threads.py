"""Threads of the supervisor do not delay its event loop for long."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest

from zkdns.address import HostPort
from zkdns.config import Config
from zkdns.daemon.supervisor.supervisor import SWITCH_SECONDS, Supervisor
from zkdns.errors import ListenError


def test_threads_pass_the_interpreter_on_soon() -> None:
    """The server does not start, since its address is in use."""
    before = sys.getswitchinterval()
    with socket.create_server(("127.0.0.1", 0)) as used:
        config = Config(listen=(HostPort(*used.getsockname()),), namespaces=())

        async def run() -> None:
            await Supervisor(config, lambda _: None, lambda: config).run()

        try:
            with pytest.raises(ListenError):
                asyncio.run(run())
            assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
        finally:
            sys.setswitchinterval(before)
