"""Whether the server answers DNS: asked at most twice a second, however many want to know."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from zkdns.address import HostPort

_KEPT_SECONDS = 0.5


class Health:
    """Asks, and remembers for half a second what came of it.

    Args:
        ask: at which addresses the server does not answer.
    """

    def __init__(self, ask: Callable[[], Awaitable[Sequence[HostPort]]]) -> None:
        self._ask = ask
        self._asking: asyncio.Task[Sequence[HostPort]] | None = None
        self._kept_until = 0.0

    async def illness(self) -> str | None:
        """A sentence that says where the server does not answer; None: it does everywhere."""
        now = asyncio.get_running_loop().time()
        if self._asking is None or (self._asking.done() and now >= self._kept_until):
            self._asking = asyncio.create_task(self._ask_now())
        # Whoever hangs up meanwhile must not end it for the others.
        silent = await asyncio.shield(self._asking)
        if not silent:
            return None
        return f"no answer over UDP at {', '.join(map(str, silent))}"

    async def _ask_now(self) -> Sequence[HostPort]:
        silent = await self._ask()
        self._kept_until = asyncio.get_running_loop().time() + _KEPT_SECONDS
        return silent
