"""The listening sockets of the DNS addresses, and how a reload changes them.

Each address has a pair of sockets (UDP and TCP) for each worker, all on one port; the kernel distributes the
queries. An address that was passed by socket activation has one pair, which all workers share. An address for
DNS over TLS has TCP sockets alone, and keeps them if it becomes one without TLS, or the other way round.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable, Sequence

import msgspec

from zkdns.address import HostPort
from zkdns.transport.activation import pair_sockets
from zkdns.transport.sockets import (
    BoundSockets,
    SocketPair,
    TlsListener,
    address_of,
    allow_sharing,
    bind,
    bind_additional,
    bind_tls,
    bound_address,
    direct_traffic,
    with_udp,
    without_udp,
)


class Listener(msgspec.Struct, frozen=True):
    """The sockets of one address."""

    configured: HostPort
    """The address in the configuration. Its port may be 0."""
    pairs: tuple[BoundSockets, ...]
    """One pair for each worker, or a single pair if it was passed."""
    is_passed: bool = False
    """True if socket activation passed it. It then stays open, whatever the configuration contains."""

    @property
    def is_tls(self) -> bool:
        """Whether the address is for DNS over TLS."""
        return isinstance(self.pairs[0], TlsListener)

    @property
    def address(self) -> HostPort:
        """The address, as bound."""
        return bound_address(self.pairs[0])

    def is_for(self, address: HostPort, *, is_tls: bool) -> bool:
        """Whether it serves this configured address, with or without TLS."""
        return is_tls == self.is_tls and address in (self.configured, self.address)

    def extended_to(self, workers: int) -> Listener:
        """Return a listener with pairs for at least this number of workers. New pairs receive nothing yet.

        Raises:
            ListenError: the sockets cannot be bound.
        """
        before = len(self.pairs)
        if workers <= before or self.is_passed:
            return self
        return Listener(self.configured, (*self.pairs, *bind_additional(self.pairs, workers - before)))

    def moved(self, address: HostPort, *, is_shared: bool) -> Listener:
        """Return a listener with the same TCP sockets, for TLS if this one is not.

        Args:
            address: the address in the configuration.
            is_shared: whether other sockets of this server use the port at an overlapping address.

        Raises:
            ListenError: the UDP sockets cannot be bound.
        """
        plain = [pair for pair in self.pairs if isinstance(pair, SocketPair)]
        tls = [pair for pair in self.pairs if isinstance(pair, TlsListener)]
        return Listener(address, tuple(without_udp(plain) if plain else with_udp(tls, shared=is_shared)))

    def limited_to(self, workers: int) -> Listener:
        """Return a listener with pairs for at most this number of workers."""
        return self if self.is_passed else Listener(self.configured, self.pairs[:workers])

    def direct_traffic(self, count: int | None) -> None:
        """Let only the first `count` pairs receive new queries and connections. None: all pairs."""
        if not self.is_passed:
            direct_traffic(self.pairs, count)


class Listeners:
    """The sockets of all addresses: passed ones first, then the others in the configured order. Immutable."""

    def __init__(self, each: Iterable[Listener] = ()) -> None:
        self.each = tuple(each)

    @classmethod
    def passed(cls, sockets: Iterable[socket.socket]) -> Listeners:
        """Create from sockets that are already bound. All workers read them, and the first one gets a query.

        Raises:
            ListenError: only UDP or only TCP of an address was passed, and the other cannot be bound.
        """
        return cls(Listener(bound_address(pair), (pair,), is_passed=True) for pair in pair_sockets(sockets))

    @property
    def addresses(self) -> tuple[HostPort, ...]:
        """The addresses for UDP and TCP, as bound."""
        return tuple(listener.address for listener in self.each if not listener.is_tls)

    @property
    def tls_addresses(self) -> tuple[HostPort, ...]:
        """The addresses for DNS over TLS, as bound."""
        return tuple(listener.address for listener in self.each if listener.is_tls)

    def of_worker(self, number: int) -> tuple[int, ...]:
        """Return the file descriptors of a worker's sockets."""
        return self._descriptors(number, self.each)

    def tls_of_worker(self, number: int) -> tuple[int, ...]:
        """Return those of a worker's sockets that are for DNS over TLS."""
        return self._descriptors(number, (listener for listener in self.each if listener.is_tls))

    def _descriptors(self, number: int, listeners: Iterable[Listener]) -> tuple[int, ...]:
        pairs = [listener.pairs[0 if listener.is_passed else number] for listener in listeners]
        return tuple(sock.fileno() for pair in pairs for sock in pair.each)

    def changed(
        self, addresses: Sequence[HostPort], workers: int, tls_addresses: Sequence[HostPort] = ()
    ) -> Listeners:
        """Return the sockets for other settings. Existing sockets are reused, missing ones are bound.

        New sockets of an existing address receive nothing until `share_out`.

        Args:
            addresses: the configured addresses.
            workers: number of workers.
            tls_addresses: the configured addresses for DNS over TLS.

        Raises:
            ListenError: an address cannot be bound. Then no new socket stays open.
        """
        each = [listener for listener in self.each if listener.is_passed]
        passed = {listener.address for listener in each}
        wanted = [
            *((address, False) for address in addresses),
            *((address, True) for address in tls_addresses),
        ]
        old = [listener for listener in self.each if not listener.is_passed]
        with contextlib.ExitStack() as undone_on_error:
            undone_on_error.callback(self.share_out)
            for address, is_tls in wanted:
                if address in passed:
                    continue
                same = next((one for one in old if one.is_for(address, is_tls=is_tls)), None)
                moved = next((one for one in old if one.is_for(address, is_tls=not is_tls)), None)
                if same is not None:
                    old.remove(same)
                    each.append(same.extended_to(workers))
                elif moved is not None and address.port:
                    old.remove(moved)
                    is_shared = _share_port(address, (*old, *each))
                    each.append(moved.moved(address, is_shared=is_shared))
                    undone_on_error.callback(close, Listeners(each[-1:]).without(self))
                    each.append(each.pop().extended_to(workers))
                else:
                    is_shared = _share_port(address, (*old, *each))
                    bind_all = bind_tls if is_tls else bind
                    each.append(Listener(address, tuple(bind_all(address, workers, shared=is_shared))))
                undone_on_error.callback(close, Listeners(each[-1:]).without(self))
            # An old address may be covered by a new wildcard address, such as 127.0.0.1 by 0.0.0.0. Queries
            # on their way to the old socket never reach the wildcard socket, so the old one stays open.
            for listener in old:
                if any(
                    is_covered(listener.address, at) for at, is_tls in wanted if is_tls == listener.is_tls
                ):
                    each.append(listener.extended_to(workers))
                    undone_on_error.callback(close, Listeners(each[-1:]).without(self))
            undone_on_error.pop_all()
        return Listeners(listener.limited_to(workers) for listener in each)

    @property
    def sockets(self) -> list[socket.socket]:
        """All sockets."""
        return [sock for listener in self.each for pair in listener.pairs for sock in pair.each]

    def without(self, others: Listeners) -> list[socket.socket]:
        """Return the sockets that are not part of the others."""
        kept = {id(sock) for sock in others.sockets}
        return [sock for sock in self.sockets if id(sock) not in kept]

    def leave_out(self, others: Iterable[socket.socket]) -> None:
        """Let other sockets at the same addresses receive nothing more."""
        addresses = {address_of(sock) for sock in others}
        for listener in self.each:
            if listener.address in addresses:
                listener.direct_traffic(len(listener.pairs))

    def share_out(self) -> None:
        """Distribute new queries and connections over all sockets of each address."""
        for listener in self.each:
            listener.direct_traffic(None)

    def close(self) -> None:
        """Close all sockets."""
        close(self.sockets)


def _share_port(address: HostPort, others: Iterable[Listener]) -> bool:
    """Whether a new address covers other addresses (0.0.0.0), or is covered by one.

    Such sockets must all permit sharing their port. Passed sockets keep their options, because the service
    manager has chosen them.
    """
    overlapping = [
        listener
        for listener in others
        if not listener.is_passed
        and (is_covered(address, listener.address) or is_covered(listener.address, address))
    ]
    for listener in overlapping:
        allow_sharing(listener.pairs)
    return bool(overlapping)


def is_covered(address: HostPort, wildcard: HostPort) -> bool:
    """True if the second address is a wildcard address that includes the first one."""
    one, other = (ipaddress.ip_address(at.host.partition("%")[0]) for at in (address, wildcard))
    return other.is_unspecified and one.version == other.version and address.port == wildcard.port


def close(sockets: Iterable[socket.socket]) -> None:
    """Close these sockets."""
    for sock in sockets:
        sock.close()
