"""A whole watcher in this process: the orders of its supervisor."""

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.daemon.ipc.feed_helpers import until
from zkdns.admin.api_types import Flushed
from zkdns.config import load_config
from zkdns.daemon.ipc.child import Configure, Orders, Task
from zkdns.daemon.ipc.request_messages import FlushCaches
from zkdns.daemon.ipc.requests import RequestRefusedError, requests_path, send_request
from zkdns.daemon.watcher.watcher import run_watcher


def test_a_new_configuration_is_used_while_snapshots_are_written(short_path: Path) -> None:
    """`zkdns flush` is refused until the configuration has upstreams."""
    feed = str(short_path / "feed")
    path = requests_path(feed)
    flags = {"zookeeper": "127.0.0.1:1", "snapshot": str(short_path / "table")}
    forwarding = load_config(flags=flags, environment={}, file=None)
    config = replace(forwarding, forward=replace(forwarding.forward, upstreams=()))

    async def flush() -> object:
        return await send_request(path, FlushCaches(None), Flushed)

    async def scenario() -> None:
        orders: Orders = asyncio.Queue()
        watcher = asyncio.create_task(run_watcher(Task("watcher", config, feed), lambda _: None, orders))
        await until(Path(path).exists)
        with pytest.raises(RequestRefusedError):
            await flush()
        orders.put_nowait(Configure(forwarding))
        await until(orders.empty)
        assert await flush() == Flushed(0, 1)
        watcher.cancel()
        await asyncio.wait([watcher])

    asyncio.run(scenario())
