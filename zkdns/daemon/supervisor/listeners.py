"""The listening sockets: of each address a pair for each worker, and what becomes of them at changes."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable, Sequence

import msgspec

from zkdns.address import HostPort
from zkdns.transport.activation import pair_sockets
from zkdns.transport.sockets import (
    SocketPair,
    allow_sharing,
    bind,
    bind_additional,
    bound_address,
    direct_traffic,
)


class Listener(msgspec.Struct, frozen=True):
    """One address."""

    written: HostPort
    """As the configuration has it."""
    pairs: tuple[SocketPair, ...]
    """By worker; what was passed is one that all of them share."""
    is_passed: bool = False
    """Whether somebody else has bound it, who keeps it: it stays, whatever the configuration says."""

    @property
    def address(self) -> HostPort:
        """Where it really is."""
        return bound_address(self.pairs[0])

    def with_more(self, workers: int) -> Listener:
        """The same for so many workers at least; for those that are new it is too early to get anything.

        Raises:
            ListenError: the sockets cannot be bound.
        """
        before = len(self.pairs)
        if workers <= before or self.is_passed:
            return self
        bound = bind_additional(self.pairs, workers - before)
        return Listener(self.written, (*self.pairs, *bound))

    def with_most(self, workers: int) -> Listener:
        """The same for so many workers at most."""
        return self if self.is_passed else Listener(self.written, self.pairs[:workers])

    def direct_traffic(self, count: int | None) -> None:
        """Let what arrives go to the first so many pairs alone; None: to all."""
        if not self.is_passed:
            direct_traffic(self.pairs, count)


class Listeners:
    """All addresses: those that were passed, and others in the order of the configuration.

    They do not change: others take their place.
    """

    def __init__(self, each: Iterable[Listener] = ()) -> None:
        self.each = tuple(each)

    @classmethod
    def passed(cls, sockets: Iterable[socket.socket]) -> Listeners:
        """Those of sockets that are bound already; who comes first of the workers has the query.

        Raises:
            ListenError: only one half of an address was passed, and the other cannot be bound.
        """
        return cls(Listener(bound_address(pair), (pair,), is_passed=True) for pair in pair_sockets(sockets))

    @property
    def addresses(self) -> tuple[HostPort, ...]:
        """Where they are, as bound."""
        return tuple(listener.address for listener in self.each)

    def of_worker(self, number: int) -> tuple[int, ...]:
        """The files of a worker's sockets, UDP and TCP by turns."""
        pairs = [listener.pairs[0 if listener.is_passed else number] for listener in self.each]
        return tuple(sock.fileno() for pair in pairs for sock in (pair.udp, pair.tcp))

    def changed(self, addresses: Sequence[HostPort], workers: int) -> Listeners:
        """Those that are wanted: what is there stays as it is, what is not is bound.

        Nothing arrives at what is bound where others are already, until `share_out`.

        Raises:
            ListenError: an address cannot be bound; nothing was bound then.
        """
        each = [one for one in self.each if one.is_passed]
        passed = {one.address for one in each}
        left = [one for one in self.each if not one.is_passed]
        with contextlib.ExitStack() as undone:
            undone.callback(self.share_out)
            for written in addresses:
                if written in passed:
                    continue
                here = next((one for one in left if written in (one.written, one.address)), None)
                if here is not None:
                    left.remove(here)
                    each.append(here.with_more(workers))
                else:
                    pairs = _bind_beside(written, workers, (*left, *each))
                    each.append(Listener(written, tuple(pairs)))
                undone.callback(close, Listeners(each[-1:]).without(self))
            # What is sent to a socket of 127.0.0.1 never reaches one of 0.0.0.0; when it is closed, something
            # may be on its way. So it is kept, as the part of the other that it is.
            for part in left:
                if any(is_part(part.address, other) for other in addresses):
                    each.append(part.with_more(workers))
                    undone.callback(close, Listeners(each[-1:]).without(self))
            undone.pop_all()
        return Listeners(one.with_most(workers) for one in each)

    def without(self, others: Listeners) -> list[SocketPair]:
        """The sockets that those lack."""
        kept = {id(pair) for listener in others.each for pair in listener.pairs}
        return [pair for listener in self.each for pair in listener.pairs if id(pair) not in kept]

    def leave_out(self, others: Iterable[SocketPair]) -> None:
        """Let nothing more arrive at those, which may be at the same addresses as these."""
        at = {bound_address(pair) for pair in others}
        for listener in self.each:
            if listener.address in at:
                listener.favour(len(listener.pairs))

    def share_out(self) -> None:
        """Let what arrives at an address be shared out among all sockets there."""
        for listener in self.each:
            listener.favour(None)

    def close(self) -> None:
        """Close all."""
        close(self.without(Listeners()))


def _bind_beside(address: HostPort, workers: int, others: Iterable[Listener]) -> list[SocketPair]:
    """Bind at a new address, which may be part of another (0.0.0.0), or hold it.

    Sockets that were passed are let be: whoever has bound them has said who else may be there.
    """
    neighbours = [
        one
        for one in others
        if not one.is_passed and (is_part(address, one.address) or is_part(one.address, address))
    ]
    for neighbour in neighbours:
        allow_sharing(neighbour.pairs)
    return bind(address, workers, shared=bool(neighbours))


def is_part(address: HostPort, of: HostPort) -> bool:
    """Whether who listens at the second address listens at the first one, too."""
    one, other = (ipaddress.ip_address(host.partition("%")[0]) for host in (address.host, of.host))
    return other.is_unspecified and one.version == other.version and address.port == of.port


def close(pairs: Iterable[SocketPair]) -> None:
    """Close these sockets."""
    for pair in pairs:
        pair.close()
