"""The listening sockets: of each address a pair for each worker, and what becomes of them at changes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

import msgspec

from zkdns.address import HostPort
from zkdns.transport.sockets import SocketPair, bind, bind_more, bound_address, favour, share


class Listener(msgspec.Struct, frozen=True):
    """One address."""

    written: HostPort
    """As the configuration has it."""
    pairs: tuple[SocketPair, ...]
    """By worker."""

    @property
    def address(self) -> HostPort:
        """Where it really is."""
        return bound_address(self.pairs[0])


class Listeners:
    """All addresses, in the order of the configuration. They do not change: others take their place."""

    def __init__(self, each: Iterable[Listener] = ()) -> None:
        self.each = tuple(each)

    @property
    def addresses(self) -> tuple[HostPort, ...]:
        """Where they are, as bound."""
        return tuple(listener.address for listener in self.each)

    def of_worker(self, number: int) -> tuple[int, ...]:
        """The files of a worker's sockets, UDP and TCP by turns."""
        pairs = [listener.pairs[number] for listener in self.each]
        return tuple(sock.fileno() for pair in pairs for sock in (pair.udp, pair.tcp))

    def changed(self, addresses: Sequence[HostPort], workers: int) -> Listeners:
        """Those that are wanted: what is there stays as it is, what is not is bound.

        Nothing arrives at what is bound where others are already, until `share_out`.

        Raises:
            ListenError: an address cannot be bound; nothing was bound then.
        """
        left = list(self.each)
        each: list[Listener] = []
        with contextlib.ExitStack() as closed_on_error:
            closed_on_error.callback(self.share_out)
            for written in addresses:
                here = next((one for one in left if one.written == written), None)
                if here is None:
                    bound = self._bind_beside(written, workers)
                    each.append(Listener(written, tuple(bound)))
                else:
                    left.remove(here)
                    bound = self._bind_more(here, workers)
                    each.append(Listener(written, (*here.pairs, *bound)[:workers]))
                for pair in bound:
                    closed_on_error.callback(pair.close)
            closed_on_error.pop_all()
        return Listeners(each)

    def without(self, others: Listeners) -> list[SocketPair]:
        """The sockets that those lack."""
        kept = {id(pair) for listener in others.each for pair in listener.pairs}
        return [pair for listener in self.each for pair in listener.pairs if id(pair) not in kept]

    def leave_out(self, others: Iterable[SocketPair]) -> None:
        """Let nothing more arrive at those, which may be at the same addresses as these."""
        at = {bound_address(pair) for pair in others}
        for listener in self.each:
            if listener.address in at:
                favour(listener.pairs, len(listener.pairs))

    def share_out(self) -> None:
        """Let what arrives at an address be shared out among all sockets there."""
        for listener in self.each:
            favour(listener.pairs, None)

    def close(self) -> None:
        """Close all."""
        close(self.without(Listeners()))

    @staticmethod
    def _bind_more(listener: Listener, workers: int) -> list[SocketPair]:
        """Bind for more workers; for them it is too early to get anything."""
        before = len(listener.pairs)
        if workers <= before:
            return []
        bound = bind_more(listener.pairs, workers - before)
        favour(listener.pairs, before)
        return bound

    def _bind_beside(self, address: HostPort, workers: int) -> list[SocketPair]:
        """Bind at a new address, which may be part of one that is there (0.0.0.0), or hold it."""
        neighbours = [one for one in self.each if address.port and one.address.port == address.port]
        for neighbour in neighbours:
            share(neighbour.pairs)
        return bind(address, workers, shared=bool(neighbours))


def close(pairs: Iterable[SocketPair]) -> None:
    """Close these sockets."""
    for pair in pairs:
        pair.close()
