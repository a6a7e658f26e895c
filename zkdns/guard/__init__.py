"""Decides which removals take effect, and which are held because ZooKeeper itself seems to have failed.

A held member has left, and is still answered after all others. Time is a parameter. Never here: ZooKeeper,
DNS, a clock.
"""

from zkdns.guard.guard import WAIT_SECONDS, Guard
from zkdns.guard.held_members import HeldMember

__all__ = ["WAIT_SECONDS", "Guard", "HeldMember"]
