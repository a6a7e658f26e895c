"""What look-ups of host names find."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from zkdns.dns.message import Type


class HostAddresses(NamedTuple):
    """What a host name stands for."""

    addresses: tuple[str, ...]
    """Sorted; in canonical form."""
    seconds: float
    """After so long it should be looked up again."""
    failed: tuple[Type, ...] = ()
    """The types that there was no answer about: which addresses of theirs there are is not known."""
    reason: str = ""
    """Why not."""

    def beside(self, known: Iterable[str]) -> tuple[str, ...]:
        """The addresses, and of those known before the ones that no answer was about; sorted."""
        kept = {text for text in known if type_of(text) in self.failed}
        return tuple(sorted(kept.union(self.addresses)))


def type_of(address: str) -> Type:
    """The type of the records that hold such an address."""
    return Type.AAAA if ":" in address else Type.A
