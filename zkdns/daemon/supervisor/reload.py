"""Reload: reads the configuration again, and applies the difference.

    SIGHUP, `zkdns reload`, POST /api/reload ──▶ queue ──▶ read ──▶ diff ──▶ apply, or keep the old one

One reload runs at a time. All requests that arrive meanwhile share the next one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from zkdns.admin.api_types import Reloaded
from zkdns.config import Config
from zkdns.daemon.supervisor.config_diff import ConfigDiff, diff_configs
from zkdns.daemon.supervisor.server_state import ServerState
from zkdns.errors import ConfigError, ZkdnsError
from zkdns.telemetry.sd_notify import Notifier

log = structlog.get_logger("zkdns.supervisor")

_EFFECT = "old configuration stays in force"


class NotReloaded(msgspec.Struct, frozen=True):
    """The old configuration stays in force."""

    errors: tuple[str, ...]


class Reloader:
    """Queues and executes requests.

    Attributes:
        outcomes: number of reloads that succeeded (`done`) and failed (`refused`).

    Args:
        state: has the configuration in force.
        notifier: reports begin and end of each reload to the service manager.
        read: reads the configuration, in a thread. Raises ConfigError with all errors.
        apply: applies a configuration, and returns the roles of the replaced processes. Raises ZkdnsError if
            that fails and the old configuration stays in force.
    """

    def __init__(
        self,
        state: ServerState,
        notifier: Notifier,
        read: Callable[[], Config],
        apply: Callable[[Config, ConfigDiff], Awaitable[tuple[str, ...]]],
    ) -> None:
        self.outcomes = {"done": 0, "refused": 0}
        self._state, self._notifier, self._read, self._apply = state, notifier, read, apply
        self._requested = asyncio.Event()
        self._replaces_all = False
        self._waiting: list[asyncio.Future[Reloaded | NotReloaded]] = []

    def request(self, *, replace_all: bool = False) -> asyncio.Future[Reloaded | NotReloaded]:
        """Request a reload, and return its future result.

        Args:
            replace_all: replace processes that use no changed setting too.
        """
        future: asyncio.Future[Reloaded | NotReloaded] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._replaces_all |= replace_all
        self._requested.set()
        return future

    async def run(self) -> None:
        """Execute requests without end."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            waiting, self._waiting = self._waiting, []
            replace_all, self._replaces_all = self._replaces_all, False
            self._notifier.reloading()
            result = await self._reload(replace_all)
            self.outcomes["done" if isinstance(result, Reloaded) else "refused"] += 1
            self._notifier.reloaded()
            for future in waiting:
                if not future.done():
                    future.set_result(result)

    async def _reload(self, replace_all: bool) -> Reloaded | NotReloaded:
        started_at = time.monotonic()
        try:
            config = await asyncio.to_thread(self._read)
            diff = diff_configs(self._state.config, config, replace_all=replace_all)
            replaced = () if diff.is_empty else await self._apply(config, diff)
        except ConfigError as error:
            return _refused(error.errors)
        except ZkdnsError as error:
            return _refused((str(error),))
        except Exception:  # an internal error, or out of memory: the server must survive it
            log.exception("reload_failed", effect=_EFFECT)
            return NotReloaded(("internal error; the server's log has the details",))
        seconds = round(time.monotonic() - started_at, 3)
        if diff.is_empty:
            log.info("configuration_unchanged")
        else:
            log.info(
                "configuration_reloaded",
                settings=" ".join(diff.changed) or None,  # names only, because values may be secrets
                roles=" ".join(replaced) or None,
                seconds=seconds,
            )
        return Reloaded(diff.changed, replaced, seconds)


def _refused(errors: tuple[str, ...] | list[str]) -> NotReloaded:
    for error in errors:
        log.error("reload_refused", reason=error, effect=_EFFECT)
    return NotReloaded(tuple(errors))
