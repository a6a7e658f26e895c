"""Which door each socket of a worker has."""

from __future__ import annotations

import ipaddress
import socket
from functools import partial

from zkdns.config import Config
from zkdns.dns.extras import Extras
from zkdns.dns.sources import Sources
from zkdns.dns.turned_away import TurnedAway, is_proven, refusal, truncation
from zkdns.transport import Answers
from zkdns.transport.door import PRIVATE, Allowed, Counts, Door
from zkdns.transport.forms import Datagrams, Streams


class Doors:
    """Doors by the server's configuration.

    Attributes:
        counts: what is counted at all of them.

    Args:
        config: the networks that are allowed, and how often they may ask.
        extras: what is said by EDNS options, and who is known by them.
        sources: is told of each answer to who is turned away.
    """

    def __init__(self, config: Config, extras: Extras, sources: Sources) -> None:
        self.counts = Counts()
        self._config, self._extras, self._sources = config, extras, sources
        self._allowed = Allowed(config.access.allow or PRIVATE)

    def of(self, sock: socket.socket) -> Door | None:
        """The door of a socket; none where only this machine can ask, and nobody can be named instead."""
        if ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback:
            return None
        is_udp = sock.type == socket.SOCK_DGRAM
        form = Datagrams if is_udp else Streams
        refusals: Answers = TurnedAway(form, refusal, self._extras, self._sources)
        truncations: Answers = TurnedAway(form, truncation, self._extras, self._sources)
        proof = partial(is_proven, form, self._extras)
        most = self._config.access.rate_limit if is_udp else 0
        return Door(self._allowed, refusals, truncations, proof, most, self.counts)
