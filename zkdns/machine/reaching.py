"""Whether a running zkdns is reached in the way that programs on this machine go.

a name of the zone ─▶ getaddrinfo ─▶ … ─▶ zkdns
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable

import msgspec

from zkdns.address import HostPort
from zkdns.daemon.control import Contents, ControlError, Dump, Dumped, responses
from zkdns.machine.asking import AskedError, ask, system_addresses
from zkdns.names import to_text
from zkdns.serverset.changes import Change, SetPut

_SHOWN = 3  # addresses
_PAUSE = 0.1  # seconds


class Reached(msgspec.Struct, frozen=True):
    """What came of trying."""

    is_well: bool | None
    """None: it could not be tried, as the sentence says."""
    sentence: str


def try_name(
    listening: Iterable[HostPort], zone: str, control: str | None, *, seconds: float = 0.0
) -> Reached:
    """Look a name of the zone up as programs do, and compare that with what the server itself says.

    Args:
        listening: where the server answers.
        zone: without the dot.
        control: the server's control socket, which tells a service's name; None: there is none.
        seconds: for how long it may fail and be tried again, as programs take to read their files anew.
    """
    server, why = answering(listening, zone)
    if server is None:
        return Reached(None, f"no zkdns answers for {zone} ({why}), so no name can be tried; start it")
    served = asyncio.run(_served(control)) if control is not None else None
    if served is None:
        return Reached(
            None,
            f"zkdns answers at {server}, but tells no name that could be tried; try one of yours: "
            f"getent ahosts SERVICE.ENVIRONMENT.{zone}",
        )
    deadline = time.monotonic() + seconds
    while True:
        reached = _try(*served)
        if reached.is_well or time.monotonic() >= deadline:
            return reached
        time.sleep(_PAUSE)


def _try(name: str, served_at: frozenset[str]) -> Reached:
    try:
        found = system_addresses(name)
    except AskedError as error:
        return Reached(
            False, f"{name}: programs on this machine do not find it ({error}), while zkdns serves it"
        )
    shown = ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
    if not served_at.intersection(found):
        return Reached(False, f"{name}: programs on this machine find {shown}, which zkdns does not answer")
    return Reached(True, f"{name}: programs on this machine find {shown}")


def answering(listening: Iterable[HostPort], zone: str) -> tuple[HostPort | None, str]:
    """The first address at which the zone is served, and else why there is none."""
    why = "it listens nowhere"
    for server in listening:
        try:
            answer = ask(server, zone)
        except AskedError as error:
            why = f"{server} {error}"
            continue
        if answer.rcode == "NOERROR" and answer.is_authoritative:
            return server, ""
        why = f"{server} answers {answer.rcode}" + (
            "" if answer.is_authoritative else ", and not as its owner"
        )
    return None, why


async def _served(control: str) -> tuple[str, frozenset[str]] | None:
    """The name of a service and its members' addresses; None: the server tells of none that has any."""
    try:
        async with contextlib.aclosing(responses(control, Dump())) as all_of_them:
            if not isinstance(await anext(all_of_them), Dumped):
                return None
            async for part in all_of_them:
                if not isinstance(part, Contents) or not part.changes:
                    break
                for change in part.changes:
                    addresses = _addresses(change)
                    if isinstance(change, SetPut) and addresses:
                        return to_text(change.name.key), addresses
    except ControlError:
        pass
    return None


def _addresses(change: Change) -> frozenset[str]:
    """Of the members that are answered with whatever the settings say."""
    members = change.members if isinstance(change, SetPut) else ()
    return frozenset(
        address for member in members if member.status == "ALIVE" for address in member.addresses
    )
