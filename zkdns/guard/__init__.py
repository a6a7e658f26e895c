"""Which removals wait in limbo, because they look like a failure of ZooKeeper rather than of the members.

Time is a parameter. Never here: ZooKeeper, DNS, a clock.
"""

from zkdns.guard.guard import WAIT_SECONDS, Guard
from zkdns.guard.held_members import HeldMember

__all__ = ["WAIT_SECONDS", "Guard", "HeldMember"]
