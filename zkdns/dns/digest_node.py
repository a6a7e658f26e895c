"""The record with the digest of a zone: TXT at `_digest.<zone>`.

    _digest.discovery    "v=1" "members=3" "digest=0123456789abcdef"

It depends on every service of the zone, so responses are not cached. The first query may need the members of
the whole table to be counted, which is done in steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from zkdns.digest import Digest, TableDigests
from zkdns.dns.records import FixedNode, Node
from zkdns.dns.rrset import EQUAL_WEIGHT, Weighting
from zkdns.dns.steps import COMPARISON, MEMBER, StepRunner, Steps
from zkdns.names import Labels

# The key of the steps, which belong to no single service. No service has this key.
_KEY: Labels = (b"",)


class _DigestText(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The digest of a zone, as the source of a TXT record."""

    digest: Digest
    weighting: Weighting = EQUAL_WEIGHT

    def strings(self) -> Sequence[str]:
        """The strings of the record."""
        return self.digest.strings


def digest_node(digests: TableDigests, apex: Labels, steps: StepRunner) -> Node:
    """The node of the digest of a zone.

    Raises:
        UnfinishedError: counting the members takes a longer time, and `steps` has a deferral.
    """
    steps.check(_KEY)
    if not digests.is_complete:
        steps.run(_KEY, _count(digests))
    return FixedNode(texts=(_DigestText(digests.of_zone(apex)),))


def _count(digests: TableDigests) -> Steps:
    """Count all members that are not part of the digests yet."""
    while not digests.is_complete:
        yield digests.count_some() * MEMBER + COMPARISON
