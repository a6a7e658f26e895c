"""Queries that wait for upstreams, and the questions that are being resolved for them."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from zkdns.dns.forward_form import ForwardForm
from zkdns.dns.message import Query
from zkdns.dns.responder import EncodeResponse
from zkdns.forward.forward_zones import ForwardZone
from zkdns.forward.message import Question
from zkdns.forward.resolution import Resolution
from zkdns.transport.contract import Deliver

ID_SIZE: Final = 2
"""Bytes of a message's id."""


class PendingQuery(msgspec.Struct, frozen=True, gc=False):
    """A client's query, with everything that is needed to make its response.

    Attributes:
        query: the query.
        question: its question.
        limit: maximum size of the response in bytes.
        encode: makes a response after its id ready to send.
        zone: the forward zone.
        may_be_stale: whether the forward cache may have a stale reply.
        form: its form, if it was recognized by it.
    """

    query: Query
    question: Question
    limit: int
    encode: EncodeResponse
    zone: ForwardZone
    may_be_stale: bool = True
    form: ForwardForm | None = None

    def finish(self, message: bytes) -> bytes:
        """Return the bytes to deliver for a response."""
        return self.encode(message[ID_SIZE:], len(self.query.question))


class Waiter(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A query that waits for the outcome of its question.

    Attributes:
        pending: the query.
        deliver: delivers its response.
    """

    pending: PendingQuery
    deliver: Deliver


class PendingQuestion(msgspec.Struct, eq=False, gc=False):
    """A question that is being resolved.

    Attributes:
        zone: its forward zone.
        client: the key of the client that asked first; empty if it is prefetched.
        waiters: the waiting queries, the oldest first.
        resolution: None: it has not started, or its outcome is about to be reported.
        stale_timer: delivers a stale response to them; None: no query waits, or there is no stale entry.
        is_late: whether `stale_timer` has delivered a stale response.
    """

    zone: ForwardZone
    client: bytes
    waiters: dict[Waiter, None] = {}
    resolution: Resolution | None = None
    stale_timer: asyncio.TimerHandle | None = None
    is_late: bool = False
