"""Whether an upstream hands queries back to us: probes that only we can know again.

    zkdns ── probe ──▶ upstream ──▶ … ──▶ zkdns: "this is mine, so there is a loop"

A loop costs no storm, as equal questions in flight are asked once; but every one of them ends in a time-out,
and nothing says why. A probe's name holds when it was made and a code over that, the domain and the upstream,
with the server's secret as key. So any worker knows the probes of all, remembers none of them, and a probe
that somebody wrote down proves nothing a moment later.

Never here: sending probes, and leaving an upstream alone.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable

from zkdns.address import UpstreamAddress
from zkdns.dns.message import Type
from zkdns.forward.question import Question
from zkdns.names import MAX_NAME, Labels, to_wire

# Resolvers on the way must pass the probe on, so it cannot lie below `test` or `invalid`, which they answer
# themselves; names below `example` they are to resolve like any other (RFC 6761 §6.5), and nobody owns one.
ELSEWHERE: Labels = (b"example",)
"""The domain of probes for upstreams that get all names."""

# Queries for text are passed on by resolvers that filter some other types; there is never an answer.
_QTYPE = Type.TXT
_MARK = to_wire((b"loop", b"zkdns"))[:-1]
_TIME, _SALT, _CODE = 4, 4, 12  # bytes; in hexadecimal the label has 40 characters
_LABEL = bytes((2 * (_TIME + _SALT + _CODE),))
_BEFORE_MARK = 1 + _LABEL[0]
# A resolver gives up within some seconds, and tries others before; nothing comes back later than this.
_VALID_SECONDS = 15


class LoopProbes:
    """Makes probes, and knows them when they come back.

    Args:
        secret: 16 random bytes, the same in all workers of a server: the kernel chooses who gets a query.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def question(self, upstream: UpstreamAddress, now: float, domain: Labels = ELSEWHERE) -> Question | None:
        """What to ask that upstream; another one each time, so that no cache knows the answer.

        Args:
            upstream: who is asked.
            now: seconds on the machine's monotonic clock, which all its processes share.
            domain: whose names it is asked for, in lower case.

        Returns:
            None where the domain is too long to have such a name below it.
        """
        stamp = (int(now) % (1 << 8 * _TIME)).to_bytes(_TIME) + secrets.token_bytes(_SALT)
        behind = _MARK + to_wire(domain)
        name = _LABEL + (stamp + self._code(stamp, behind, upstream)).hex().encode() + behind
        return Question(name, _QTYPE) if len(name) <= MAX_NAME else None

    def returned(
        self,
        question: Question,
        upstreams: Iterable[UpstreamAddress],
        now: float,
        domain: Labels = ELSEWHERE,
    ) -> UpstreamAddress | None:
        """The upstream whose probe a query is; None: it is none of ours, or an old one.

        For names that are no probes it costs next to nothing.

        Args:
            question: of a query that has arrived, whoever sent it.
            upstreams: those that may have been asked.
            now: as in `question`.
            domain: for whose names they are asked, in lower case.
        """
        name = question.name
        if question.qtype != _QTYPE or not name.startswith(_MARK, _BEFORE_MARK) or name[:1] != _LABEL:
            return None
        try:
            data = bytes.fromhex(name[1:_BEFORE_MARK].decode())
        except ValueError:
            return None
        stamp, code = data[: _TIME + _SALT], data[_TIME + _SALT :]
        age = (int(now) - int.from_bytes(stamp[:_TIME])) % (1 << 8 * _TIME)
        if len(code) != _CODE or age > _VALID_SECONDS:
            return None
        behind = name[_BEFORE_MARK:]
        if behind != _MARK + to_wire(domain):
            return None
        return next(
            (
                upstream
                for upstream in upstreams
                if secrets.compare_digest(code, self._code(stamp, behind, upstream))
            ),
            None,
        )

    def _code(self, stamp: bytes, behind: bytes, upstream: UpstreamAddress) -> bytes:
        content = stamp + behind + str(upstream).encode()
        return hashlib.blake2b(content, digest_size=_CODE, key=self._secret).digest()


def report_loop(upstream: UpstreamAddress, *, source: str | None = None, domain: str | None = None) -> str:
    """What to tell people of a loop: which upstream it is, and what to change.

    Args:
        upstream: the one that hands queries back.
        source: the file that names it, where no setting does.
        domain: the one whose names it is asked for; None: all.
    """
    if domain is not None:
        where, change = f'[forward.zone."{domain}"]', f'name others in [forward.zone."{domain}"]'
    elif source is not None:
        where, change = source, "name others with forward.upstreams (--upstream ADDRESS)"
    else:
        where, change = "forward.upstreams", "name others there (--upstream ADDRESS)"
    return (
        f"{upstream}, which {where} names, hands the queries that it is sent back to this server, so it is "
        f"asked no more; let it ask somebody else, or {change}"
    )
