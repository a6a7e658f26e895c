"""Which door each socket of an answerer has."""

from __future__ import annotations

import ipaddress
import socket

from zkdns.config import Config
from zkdns.dns.turned_away import TurnedAway, refusal, truncation
from zkdns.transport import Answers
from zkdns.transport.door import PRIVATE, Allowed, Counts, Door
from zkdns.transport.forms import Datagrams, Streams


class Doors:
    """Doors by the server's configuration.

    Attributes:
        counts: what is counted at all of them.

    Args:
        config: the networks that are allowed, and how often they may ask.
    """

    def __init__(self, config: Config) -> None:
        self.counts = Counts()
        self._config = config
        self._allowed = Allowed(config.allow or PRIVATE)

    def of(self, sock: socket.socket) -> Door | None:
        """The door of a socket; none where only this machine can ask, and nobody can be named instead."""
        if ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback:
            return None
        is_udp = sock.type == socket.SOCK_DGRAM
        form = Datagrams if is_udp else Streams
        refusals: Answers = TurnedAway(form, refusal)
        most = self._config.rate_limit if is_udp else 0
        return Door(self._allowed, refusals, TurnedAway(form, truncation), most, self.counts)
