"""The fixed file as a source of the table's contents; or the embedded example."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import structlog

from zkdns.config import Config
from zkdns.errors import ConfigError
from zkdns.serverset.changes import Change, SetDropped, SetPut
from zkdns.serverset.static_file import StaticSets, load_demo, load_static

log = structlog.get_logger("zkdns.watcher")

Publish: TypeAlias = Callable[[list[Change]], None]
OnHealth: TypeAlias = Callable[[bool, bool], None]

_POLL_SECONDS = 0.25


class StaticSource:
    """A fixed file, read again when it changes; or the embedded example."""

    def __init__(self, config: Config, publish: Publish, on_health: OnHealth) -> None:
        self._config = config
        self._path = Path(config.static) if config.static else None
        self._publish = publish
        self._on_health = on_health
        self._origins: set[str] = set()

    async def run(self) -> None:
        """Read the file now, and whenever it has become another.

        A file that changes is let be until it has stood still from one look to the next: many editors empty
        a file before they write it, and an empty one would be taken for one without services.
        """
        if self._path is None:
            self._take(load_demo(self._config.namespaces))
            return
        read = before = _signature(self._path)
        self._read(self._path)
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            now = _signature(self._path)
            if now == before != read:
                read = now
                self._read(self._path)
            before = now

    def _read(self, path: Path) -> None:
        try:
            sets = load_static(path, self._config.namespaces)
        except ConfigError as error:
            for mistake in error.mistakes:
                log.error("static_file_invalid", reason=mistake, effect="previous content stays in force")
            return
        self._take(sets)
        log.info("static_file_loaded", path=str(path), services=len(sets))

    def _take(self, sets: StaticSets) -> None:
        puts = [SetPut(f"fixed:{name.absolute}", name, members) for name, members in sets.items()]
        origins = {put.origin for put in puts}
        self._publish([*puts, *(SetDropped(origin) for origin in sorted(self._origins - origins))])
        self._origins = origins
        self._on_health(True, False)


def _signature(path: Path) -> tuple[int, ...] | None:
    """What changes whenever a file does: also when an editor replaces it by another of equal size."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
