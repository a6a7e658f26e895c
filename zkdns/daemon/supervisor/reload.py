"""Reloading: when the configuration is read again, and what is told of that.

SIGHUP, `zkdns reload`, … ──▶ one at a time; who asks meanwhile has the next one in common
                               └──▶ read ──▶ plan ──▶ put in force, or the old one stays
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from zkdns.config import Config
from zkdns.daemon.ipc.control_messages import NotReloaded, Reloaded
from zkdns.daemon.supervisor.config_diff import ConfigDiff, diff_configs
from zkdns.errors import ConfigError, ZkdnsError

log = structlog.get_logger("zkdns.supervisor")

_EFFECT = "old configuration stays in force"


class Reloader:
    """Takes requests, and carries them out.

    Attributes:
        on_begun: called when the configuration is about to be read.
        on_ended: called when it is in force, or the old one stays.
        outcomes: how often it was put in force (`done`), or was not (`refused`).

    Args:
        read: reads the configuration in a thread; raises ConfigError with all its mistakes.
        present: tells the one that is in force.
        change: puts one in force, and returns which roles' processes were replaced; raises ZkdnsError where
            that cannot be, all being as it was then.
    """

    def __init__(
        self,
        read: Callable[[], Config],
        present: Callable[[], Config],
        change: Callable[[Config, ConfigDiff], Awaitable[tuple[str, ...]]],
    ) -> None:
        self.on_begun: Callable[[], None] = lambda: None
        self.on_ended: Callable[[], None] = lambda: None
        self.outcomes = {"done": 0, "refused": 0}
        self._read, self._present, self._change = read, present, change
        self._asked = asyncio.Event()
        self._is_of_all = False
        self._waiting: list[asyncio.Future[Reloaded | NotReloaded]] = []

    def request(self, *, all_of_them: bool = False) -> asyncio.Future[Reloaded | NotReloaded]:
        """Let the configuration be read, soon; what comes of that.

        Args:
            all_of_them: whether processes are replaced for which nothing has changed.
        """
        future: asyncio.Future[Reloaded | NotReloaded] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._is_of_all |= all_of_them
        self._asked.set()
        return future

    async def run(self) -> None:
        """Carry requests out for ever."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            waiting, self._waiting = self._waiting, []
            is_of_all, self._is_of_all = self._is_of_all, False
            self.on_begun()
            outcome = await self._reload(is_of_all)
            self.outcomes["done" if isinstance(outcome, Reloaded) else "refused"] += 1
            self.on_ended()
            for future in waiting:
                if not future.done():
                    future.set_result(outcome)

    async def _reload(self, is_of_all: bool) -> Reloaded | NotReloaded:
        begun = time.monotonic()
        try:
            config = await asyncio.to_thread(self._read)
            plan = diff_configs(self._present(), config, all_of_them=is_of_all)
            replaced = () if plan.is_empty else await self._change(config, plan)
        except ConfigError as error:
            return _refused(error.mistakes)
        except ZkdnsError as error:
            return _refused((str(error),))
        except Exception:  # a mistake of ours, or no memory: it must not cost the server
            log.exception("reload_failed", effect=_EFFECT)
            return NotReloaded(("the server could not do it; its log says why",))
        seconds = round(time.monotonic() - begun, 3)
        if plan.is_empty:
            log.info("configuration_unchanged")
        else:
            # Values may be secrets; what is said is which they are.
            log.info(
                "configuration_reloaded",
                settings=" ".join(plan.changed) or None,
                roles=" ".join(replaced) or None,
                seconds=seconds,
            )
        return Reloaded(plan.changed, replaced, seconds)


def _refused(mistakes: tuple[str, ...] | list[str]) -> NotReloaded:
    for mistake in mistakes:
        log.error("reload_refused", reason=mistake, effect=_EFFECT)
    return NotReloaded(tuple(mistakes))
