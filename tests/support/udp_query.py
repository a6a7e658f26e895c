"""A DNS query over UDP that is repeated if its datagram, or that of the response, is lost."""

import time

import dns.exception
import dns.message
import dns.query

from tests.support.waiting import PATIENCE

_ATTEMPT = 10.0
"""Seconds until a query is repeated. A server that is merely slow on a busy machine gets it only once."""


def query_udp(
    message: dns.message.Message,
    host: str,
    port: int = 53,
    *,
    timeout: float = PATIENCE,
    source: str | None = None,
) -> dns.message.Message:
    """Send a query, and return the response.

    A kernel drops datagrams if a buffer is full, which a busy machine does not empty in time.
    """
    ends_at = time.monotonic() + timeout
    while (left := ends_at - time.monotonic()) > _ATTEMPT:
        try:
            return dns.query.udp(message, host, _ATTEMPT, port, source)
        except dns.exception.Timeout:
            continue
    return dns.query.udp(message, host, max(left, 0.0), port, source)
