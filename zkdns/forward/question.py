"""What is asked of others: what makes two queries ask for the same."""

from __future__ import annotations

import msgspec


class Question(msgspec.Struct, frozen=True, gc=False):
    """A question of class IN, and the flags that change what is answered to it (RFC 4035 §3.2)."""

    name: bytes
    """In wire form: labels with their lengths, in lower case, the root's zero at the end; 1 to 255 bytes."""
    qtype: int
    do: bool = False
    """Whether DNSSEC's records are wanted (RFC 3225)."""
    cd: bool = False
    """Whether the upstream is asked not to check them."""
