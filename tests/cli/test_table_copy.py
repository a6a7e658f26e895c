"""Copies of the table: from readable sources, and from unreadable ones."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from zkdns.cli.table_copy import copy_from_sources
from zkdns.config import Config, load_config
from zkdns.errors import UnreachableError, ZkdnsError


def configured(**flags: Any) -> Config:
    return load_config(flags={"upstream": ("none",), **flags}, environment={}, file=None)


def test_a_copy_waits_for_the_addresses_of_host_names(tmp_path: Path) -> None:
    file = tmp_path / "services.toml"
    file.write_text('[services."db.prod"]\nmembers = ["localhost:1", "10.0.0.1:2"]\n')
    config = configured(static=str(file), ttl="9")
    copy = asyncio.run(copy_from_sources(config))
    assert copy.table.addresses_of("localhost")
    assert (copy.config.ttl, copy.is_stale) == (9, False)
    assert copy.table.serial > 0
    assert list(copy.table.services) == [(b"db", b"prod", b"discovery")]


def test_the_wait_for_addresses_has_a_time_out(tmp_path: Path) -> None:
    file = tmp_path / "services.toml"
    file.write_text('[services."db.prod"]\nmembers = ["nowhere.invalid:1"]\n')
    copy = asyncio.run(copy_from_sources(configured(static=str(file)), resolve_seconds=0.1))
    assert copy.table.hosts == {"nowhere.invalid"}
    assert not copy.table.addresses_of("nowhere.invalid")


def test_an_unreadable_source_is_an_error() -> None:
    cause = r"^cannot read the table: ZooKeeper at 127\.0\.0\.1:1 is unreachable: connection refused$"
    with pytest.raises(UnreachableError, match=cause):
        asyncio.run(copy_from_sources(configured(zookeeper="127.0.0.1:1"), read_seconds=0.3))


def test_a_configured_snapshot_is_neither_read_nor_written(tmp_path: Path) -> None:
    config = configured(zookeeper="127.0.0.1:1", snapshot=str(tmp_path / "snapshot"))
    with pytest.raises(ZkdnsError):
        asyncio.run(copy_from_sources(config, read_seconds=0.3))
    assert list(tmp_path.iterdir()) == []
