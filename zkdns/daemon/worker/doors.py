"""Which door each socket of a worker has."""

from __future__ import annotations

import ipaddress
import socket
from functools import partial

from zkdns.config import Config
from zkdns.dns.answer_source import AnswerSources
from zkdns.dns.edns_options import EdnsOptions
from zkdns.dns.refusals import ErrorResponder, is_proven, refused_response, truncated_response
from zkdns.transport import ResponseLookup
from zkdns.transport.access_control import PRIVATE, AccessControl, AccessCounters, Allowlist
from zkdns.transport.codecs import TcpCodec, UdpCodec


class Doors:
    """Doors by the server's configuration.

    Attributes:
        counts: what is counted at all of them.

    Args:
        config: the networks that are allowed, and how often they may ask.
        extras: what is said by EDNS options, and who is known by them.
        sources: is told of each answer to who is turned away.
    """

    def __init__(self, config: Config, extras: EdnsOptions, sources: AnswerSources) -> None:
        self.counts = AccessCounters()
        self._config, self._extras, self._sources = config, extras, sources
        self._allowed = Allowlist(config.access.allow or PRIVATE)

    def of(self, sock: socket.socket) -> AccessControl | None:
        """The door of a socket; none where only this machine can ask, and nobody can be named instead."""
        if ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback:
            return None
        is_udp = sock.type == socket.SOCK_DGRAM
        form = UdpCodec if is_udp else TcpCodec
        refusals: ResponseLookup = ErrorResponder(form, refused_response, self._extras, self._sources)
        truncations: ResponseLookup = ErrorResponder(form, truncated_response, self._extras, self._sources)
        proof = partial(is_proven, form, self._extras)
        most = self._config.access.rate_limit if is_udp else 0
        return AccessControl(self._allowed, refusals, truncations, proof, most, self.counts)
