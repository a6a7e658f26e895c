"""The state of the running server, which the supervisor's parts read and only `Supervisor` changes."""

from __future__ import annotations

import time

import msgspec

from zkdns.address import HostPort
from zkdns.config import Config
from zkdns.daemon.supervisor.children import ChildProcess
from zkdns.daemon.supervisor.listeners import Listeners
from zkdns.telemetry.stats import TransferStats, WatcherStats
from zkdns.telemetry.traffic import ServiceTotals


class Generation(msgspec.Struct, frozen=True):
    """The sockets and processes that serve one configuration. A reload replaces it."""

    config: Config
    listeners: Listeners
    watcher: ChildProcess
    workers: tuple[ChildProcess, ...]
    transfer: ChildProcess | None = None
    """The transfer process. None: zone transfers are not configured."""

    @property
    def children(self) -> tuple[ChildProcess, ...]:
        """All processes."""
        return (self.watcher, *self.workers, *([] if self.transfer is None else [self.transfer]))

    @property
    def restarts(self) -> dict[str, int]:
        """Processes replaced after they ended unexpectedly, by role."""
        roles = {"watcher": self.watcher.deaths, "worker": sum(worker.deaths for worker in self.workers)}
        return roles if self.transfer is None else {**roles, "transfer": self.transfer.deaths}

    @property
    def is_ready(self) -> bool:
        """True if every worker has a table."""
        return all(worker.ready for worker in self.workers)

    @property
    def has_table(self) -> bool:
        """True if at least one worker has a table."""
        return any(worker.ready for worker in self.workers)


class ServerState:
    """The configuration in force, and the generation that serves it.

    Attributes:
        config: the configuration in force.
        started: Unix time of the server's start.
        service_totals: responses by service, of all workers since the start.

    Args:
        config: the first configuration.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.started = time.time()
        self.service_totals = ServiceTotals()
        self._generation: Generation | None = None

    def set(self, generation: Generation) -> None:
        """Set the generation that serves from now on, and its configuration."""
        self._generation = generation
        self.config = generation.config

    @property
    def generation(self) -> Generation:
        """The current generation. There is one as soon as the server has started."""
        assert self._generation is not None  # noqa: S101 - set before anything that reads it starts
        return self._generation

    @property
    def is_ready(self) -> bool:
        """True if every worker has a table."""
        return self._generation is not None and self._generation.is_ready

    @property
    def addresses(self) -> tuple[HostPort, ...]:
        """The DNS addresses, as bound."""
        return self.generation.listeners.addresses

    @property
    def tls_addresses(self) -> tuple[HostPort, ...]:
        """The addresses for DNS over TLS, as bound."""
        return self.generation.listeners.tls_addresses

    @property
    def watcher(self) -> ChildProcess:
        """The watcher."""
        return self.generation.watcher

    @property
    def watcher_stats(self) -> WatcherStats | None:
        """The last stats of the watcher. None: it has not reported any."""
        stats = self.watcher.stats
        return stats if isinstance(stats, WatcherStats) else None

    @property
    def transfer_stats(self) -> TransferStats | None:
        """The last stats of the transfer process. None: there is none, or it has not reported any."""
        child = self.generation.transfer
        return child.stats if child is not None and isinstance(child.stats, TransferStats) else None

    @property
    def workers(self) -> tuple[ChildProcess, ...]:
        """The workers."""
        return self.generation.workers
