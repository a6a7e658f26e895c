"""Publishes the services of the static file, or of the built-in example."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple

import structlog

from zkdns.config import Config
from zkdns.daemon.ipc.feed import Publisher, Rise
from zkdns.daemon.ipc.feed_messages import SourceHealth
from zkdns.errors import ConfigError
from zkdns.namespace import STATIC_PREFIX, STATIC_SOURCE
from zkdns.serverset.changes import SetDropped, SetPut
from zkdns.serverset.static_file import StaticSets, load_demo, load_static

log = structlog.get_logger("zkdns.watcher")

_POLL_SECONDS = 0.25
_DEMO_VERSION = 1  # the example never changes


class StaticSource:
    """Reads the static file at start and after each change; or the built-in example (`demo`) once.

    Args:
        config: path of the file, and the namespaces that give its services their names.
        publisher: gets the sets, and the health of the source after each successful read.
    """

    def __init__(self, config: Config, publisher: Publisher) -> None:
        self._config = config
        self._path = Path(config.static) if config.static else None
        self._publisher = publisher
        self._origins: set[str] = set()
        self._is_ready = False

    async def run(self) -> None:
        """Publish the services, then poll the file without end.

        A changed file is read when it has been the same at two polls. Many editors truncate a file before
        they write it, and an empty file would drop all services.
        """
        if self._path is None:
            self._publish_sets(load_demo(self._config.namespaces), _DEMO_VERSION)
            return
        loaded = previous = _signature(self._path)
        self._load(self._path, loaded)
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            current = _signature(self._path)
            if current == previous != loaded:
                loaded = current
                self._load(self._path, loaded)
            previous = current

    def _load(self, path: Path, signature: _Signature | None) -> None:
        try:
            sets = load_static(path, self._config.namespaces)
        except ConfigError as error:
            for reason in error.errors:
                log.error("static_file_invalid", reason=reason, effect="previous content stays in force")
            return
        self._publish_sets(sets, signature.modified_ns // 10**9 if signature else 0)
        log.info("static_file_loaded", path=str(path), services=len(sets))

    def _publish_sets(self, sets: StaticSets, version: int) -> None:
        puts = [SetPut(f"{STATIC_PREFIX}{name.absolute}", name, members) for name, members in sets.items()]
        origins = {put.origin for put in puts}
        drops = [SetDropped(origin) for origin in sorted(self._origins - origins)]
        self._publisher.publish([*puts, *drops], Rise.WITH_VERSION if self._is_ready else Rise.NEVER)
        self._publisher.set_version(STATIC_SOURCE, version)
        self._origins = origins
        self._is_ready = True
        self._publisher.set_health(SourceHealth(ready=True, source=STATIC_SOURCE))


class _Signature(NamedTuple):
    """Differs after each change of a file, even if a file of equal size replaces it."""

    modified_ns: int
    size: int
    inode: int


def _signature(path: Path) -> _Signature | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return _Signature(stat.st_mtime_ns, stat.st_size, stat.st_ino)
