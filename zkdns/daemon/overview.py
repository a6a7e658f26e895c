"""What the supervisor tells the admin address of the server, and does for it.

It knows its processes by their reports. What only the process that watches knows is asked of that one, over a
control socket in the server's private directory, whatever the one for commands is.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import TypeVar

from zkdns import __version__
from zkdns.address import HostPort
from zkdns.config import Config
from zkdns.daemon.control import (
    Accept,
    Accepted,
    ControlError,
    FlushCaches,
    Flushed,
    NotReloaded,
    Refused,
    Request,
    Response,
    command,
    own_control,
    responses,
)
from zkdns.daemon.inquiries import (
    Explain,
    Explained,
    HistoryRead,
    ListServices,
    ReadHistory,
    ServiceLine,
    ServicesListed,
)
from zkdns.daemon.keeper import ChildKeeper
from zkdns.daemon.reloading import Reloading
from zkdns.daemon.self_asking import silent_addresses
from zkdns.names import to_text
from zkdns.observe.figures import AnswererFigures, ServerFigures, UpstreamFigures, WatcherFigures
from zkdns.observe.status import (
    RequestError,
    Source,
    Status,
    TableStatus,
    UpstreamStatus,
    WorkerStatus,
    ZooKeeperStatus,
)

_ANSWER_SECONDS = 1.0
_LONGEST_NAME = 4096  # characters: names are much shorter, and paths of znodes nearly always

T = TypeVar("T", bound=Response)


class Overview:
    """The server, as its supervisor knows it; what may be another one after a while is asked for each time.

    Args:
        started: when the server was, in Unix time.
        config: what is in force now.
        is_ready: whether every answerer has a table.
        listening: the addresses, as bound.
        watcher: keeps the process that watches.
        answerers: keep those that answer.
        reloading: reads the configuration again.
    """

    def __init__(
        self,
        *,
        started: float,
        config: Callable[[], Config],
        is_ready: Callable[[], bool],
        listening: Callable[[], Sequence[HostPort]],
        watcher: Callable[[], ChildKeeper],
        answerers: Callable[[], Sequence[ChildKeeper]],
        reloading: Reloading,
    ) -> None:
        self._config = config
        self._is_ready = is_ready
        self._listening = listening
        self._watcher = watcher
        self._answerers = answerers
        self._reloading = reloading
        self._started = started

    # -- what is known -------------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether every answerer has a table."""
        return self._is_ready()

    @property
    def names(self) -> Sequence[str]:
        """What this machine is called, and what the settings add."""
        return (os.uname().nodename.lower(), *self._config().admin.names)

    @property
    def token_file(self) -> str | None:
        """Where the token stands."""
        return self._config().admin.token

    def answerers(self) -> Mapping[int, AnswererFigures]:
        """What each answerer counts, by its process number."""
        return {
            child.pid: child.figures
            for child in self._answerers()
            if child.pid is not None and isinstance(child.figures, AnswererFigures)
        }

    def status(self) -> Status:
        """The server now."""
        config = self._config()
        told = self._watcher().figures
        figures = told if isinstance(told, WatcherFigures) else None
        return Status(
            version=__version__,
            ready=self.is_ready,
            zones=tuple(map(to_text, config.zones)),
            listening=tuple(map(str, self._listening())),
            source=_source(config),
            zookeeper=_zookeeper(config.zookeeper.hosts, figures) if config.zookeeper.hosts else None,
            table=_table(figures) if figures is not None else None,
            workers=tuple(WorkerStatus(child.pid, child.ready) for child in self._answerers()),
            upstreams=_upstreams(self.answerers().values()),
            started=self._started,
            now=time.time(),
        )

    def metrics(self, openmetrics: bool) -> str:
        """All figures in Prometheus' words; may be called from another thread."""
        # prometheus-client is for who scrapes; no command is to wait for its import.
        from zkdns.observe.metrics import render  # noqa: PLC0415

        watcher, answerers = self._watcher(), self._answerers()
        restarts: Counter[str] = Counter()
        for child in (watcher, *answerers):
            restarts[child.task.role] += child.deaths
        server = ServerFigures(
            version=__version__, started=self._started, restarts=restarts, reloads=self._reloading.outcomes
        )
        return render(watcher.figures, [one.figures for one in answerers], server, openmetrics=openmetrics)

    async def silent(self) -> Sequence[HostPort]:
        """At which addresses nobody answers within a second; any response is an answer."""
        config = self._config()
        return await silent_addresses(self._listening(), config.zones[0], config.workers, _ANSWER_SECONDS)

    # -- what is asked of the process that watches -----------------------------------------------------------

    async def services(self) -> Sequence[ServiceLine]:
        """All services, whose lines come in parts."""
        lines: list[ServiceLine] = []
        with _told_as_request_errors():
            async with contextlib.aclosing(responses(self._control(), ListServices())) as parts:
                async for part in parts:
                    listed = _checked(part, ServicesListed).services
                    if not listed:
                        break
                    lines += listed
        return lines

    async def explain(self, name: str) -> Explained:
        """What a name is, and why it is answered as it is."""
        return await self._ask(Explain(_checked_name(name)), Explained)

    async def history(self, service: str | None, after: int, most: int) -> HistoryRead:
        """Who came and went."""
        wanted = None if service is None else _checked_name(service)
        return await self._ask(ReadHistory(wanted, after, most), HistoryRead)

    async def accept(self, service: str | None) -> Mapping[str, object]:
        """Let go of members that are held."""
        wanted = None if service is None else _checked_name(service)
        return {"members": (await self._ask(Accept(wanted), Accepted)).members}

    async def flush(self, name: str | None) -> Mapping[str, object]:
        """Let answerers forget what they have cached."""
        wanted = None if name is None else _checked_name(name)
        flushed = await self._ask(FlushCaches(wanted), Flushed)
        return {"answerers": flushed.answerers, "workers": flushed.workers}

    async def reload(self) -> Mapping[str, object]:
        """Read the configuration again, and put it in force."""
        told = await self._reloading.request()
        if isinstance(told, NotReloaded):
            why = "; ".join(told.mistakes)
            raise RequestError(HTTPStatus.CONFLICT, f"the old configuration stays in force: {why}")
        return {"changed": told.changed, "replaced": told.replaced, "seconds": told.seconds}

    def _control(self) -> str:
        return own_control(self._watcher().task.feed)

    async def _ask(self, request: Request, wanted: type[T]) -> T:
        with _told_as_request_errors():
            return _checked(await command(self._control(), request), wanted)


@contextlib.contextmanager
def _told_as_request_errors() -> Iterator[None]:
    """What goes wrong between the processes is no mistake of the asker's, and passes."""
    try:
        yield
    except ControlError:
        raise RequestError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "the process that watches does not answer now; it is replaced where it has ended, so try again",
        ) from None


def _checked(response: Response, wanted: type[T]) -> T:
    """The response, where it is of the kind that was wanted.

    Raises:
        RequestError: what was asked for is refused.
        ControlError: it makes no sense.
    """
    if isinstance(response, Refused):
        is_mistaken = response.reason == "mistaken"
        raise RequestError(HTTPStatus.BAD_REQUEST if is_mistaken else HTTPStatus.NOT_FOUND, response.sentence)
    if not isinstance(response, wanted):
        raise ControlError("another kind of response came than was asked for")
    return response


def _checked_name(name: str) -> str:
    """A name that may be sent on.

    Raises:
        RequestError: it is no name at all.
    """
    if not name or len(name) > _LONGEST_NAME:
        raise RequestError(
            HTTPStatus.BAD_REQUEST, f"a name has 1 to {_LONGEST_NAME} characters, as web.staging"
        )
    return name


def _source(config: Config) -> Source:
    if config.zookeeper.hosts:
        return "zookeeper"
    if config.offline:
        return "snapshot"
    return "demo" if config.demo else "fixed"


def _zookeeper(hosts: str, figures: WatcherFigures | None) -> ZooKeeperStatus:
    if figures is None:
        return ZooKeeperStatus(hosts, None, 0.0)
    since = figures.stale_since
    return ZooKeeperStatus(
        hosts, figures.state, 0.0 if since is None else round(max(0.0, time.monotonic() - since), 3)
    )


def _table(figures: WatcherFigures) -> TableStatus:
    return TableStatus(figures.services, figures.alive, figures.hidden, figures.held, figures.bad)


def _upstreams(answerers: Iterable[AnswererFigures]) -> tuple[UpstreamStatus, ...]:
    """Each upstream once, however many workers ask it; in the order in which they stand."""
    seen: dict[tuple[str, str], list[UpstreamFigures]] = {}
    for figures in answerers:
        for one in figures.forward.upstreams if figures.forward is not None else ():
            seen.setdefault((one.address, one.domain), []).append(one)
    return tuple(
        UpstreamStatus(
            address,
            domain,
            all(one.is_dead for one in views),
            min((one.seconds for one in views if one.seconds is not None), default=None),
        )
        for (address, domain), views in seen.items()
    )
