"""Detection of upstreams that return queries to this server, by probes that only this server can recognize.

    zkdns ── probe ──▶ upstream ──▶ … ──▶ zkdns receives its own probe: a loop

A loop causes no storm, because equal questions are sent once at a time. But each question times out, for no
visible reason. The name of a probe has its time and a keyed hash of the time, the domain and the upstream;
the key is the secret of the server. So every worker recognizes the probes of all workers without storing
them, and a probe that an attacker replays is rejected some seconds later.

This module sends no probes, and does not remove upstreams.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable

from zkdns.address import UpstreamAddress
from zkdns.dns.message import Type
from zkdns.forward.message import Question
from zkdns.names import MAX_NAME, Labels, to_wire

# Resolvers must forward a probe, but answer names below `test` and `invalid` themselves. They resolve names
# below `example` like others (RFC 6761 §6.5), and these names are reserved.
DEFAULT_DOMAIN: Labels = (b"example",)
"""Domain of the probes for upstreams of all names."""

# Some resolvers filter other types; there is never an answer.
_QTYPE = Type.TXT
_SUFFIX = to_wire((b"loop", b"zkdns"))[:-1]
_TIME, _SALT, _HASH = 4, 4, 12  # bytes; 40 characters in hexadecimal
_LABEL_LENGTH = bytes((2 * (_TIME + _SALT + _HASH),))
_SUFFIX_AT = 1 + _LABEL_LENGTH[0]
# Resolvers give up within some seconds, also after they have tried others, so no probe returns later.
_VALID_SECONDS = 15


class LoopProbes:
    """Makes and recognizes probes.

    Args:
        secret: 16 random bytes, the same in all workers: the kernel chooses the worker that gets a query.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def question(
        self, upstream: UpstreamAddress, now: float, domain: Labels = DEFAULT_DOMAIN
    ) -> Question | None:
        """Return a probe for an upstream, different each time, so that it is in no cache.

        Args:
            upstream: the upstream that gets the probe.
            now: seconds on the system's monotonic clock, which is the same in all processes.
            domain: domain of the forward zone in lower case.

        Returns:
            None if the domain is too long for a probe's name below it.
        """
        stamp = (int(now) % (1 << 8 * _TIME)).to_bytes(_TIME) + secrets.token_bytes(_SALT)
        suffix = _SUFFIX + to_wire(domain)
        name = _LABEL_LENGTH + (stamp + self._hash(stamp, suffix, upstream)).hex().encode() + suffix
        return Question(name, _QTYPE) if len(name) <= MAX_NAME else None

    def match(
        self,
        question: Question,
        upstreams: Iterable[UpstreamAddress],
        now: float,
        domain: Labels = DEFAULT_DOMAIN,
    ) -> UpstreamAddress | None:
        """Return the upstream to which this probe was sent; None: it is no valid probe.

        Returns quickly for other questions.

        Args:
            question: question of a received query.
            upstreams: the upstreams of the forward zone.
            now: as in `question`.
            domain: domain of the forward zone in lower case.
        """
        name = question.name
        if question.qtype != _QTYPE or not name.startswith(_SUFFIX, _SUFFIX_AT) or name[:1] != _LABEL_LENGTH:
            return None
        try:
            data = bytes.fromhex(name[1:_SUFFIX_AT].decode())
        except ValueError:
            return None
        stamp, received_hash = data[: _TIME + _SALT], data[_TIME + _SALT :]
        age = (int(now) - int.from_bytes(stamp[:_TIME])) % (1 << 8 * _TIME)
        if len(received_hash) != _HASH or age > _VALID_SECONDS:
            return None
        suffix = name[_SUFFIX_AT:]
        if suffix != _SUFFIX + to_wire(domain):
            return None
        return next(
            (
                upstream
                for upstream in upstreams
                if secrets.compare_digest(received_hash, self._hash(stamp, suffix, upstream))
            ),
            None,
        )

    def _hash(self, stamp: bytes, suffix: bytes, upstream: UpstreamAddress) -> bytes:
        content = stamp + suffix + str(upstream).encode()
        return hashlib.blake2b(content, digest_size=_HASH, key=self._secret).digest()


def describe_loop(upstream: UpstreamAddress, *, source: str | None = None, domain: str | None = None) -> str:
    """Return an explanation of a loop: the upstream, and the setting to change.

    Args:
        upstream: the upstream that returns queries.
        source: the file with its address; None: it is in the configuration.
        domain: domain of the forward zone; None: all names.
    """
    if domain is not None:
        where, change = f'[forward.zone."{domain}"]', f'set other upstreams in [forward.zone."{domain}"]'
    elif source is not None:
        where, change = source, "set other upstreams with forward.upstreams (--upstream ADDRESS)"
    else:
        where, change = "forward.upstreams", "set other upstreams there (--upstream ADDRESS)"
    return (
        f"{upstream} (from {where}) returns queries to this server, so it gets no more queries; "
        f"configure it to use other resolvers, or {change}"
    )
