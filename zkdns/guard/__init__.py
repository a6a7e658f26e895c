"""Decides which removals take effect, and which are held because ZooKeeper itself seems to have failed.

A held member has left, and is still answered after all others. Time is a parameter: this package has no
clock. It does not use ZooKeeper or DNS either.

    guard           decides about each change
    loss_window     measures losses: which are suspicious
    held_members    the state of the members that are held or wait
    burst_log       logs which members are held, and only numbers if they are many
"""

from zkdns.guard.guard import WAIT_SECONDS, Guard, Steps
from zkdns.guard.held_members import HeldMember
from zkdns.guard.loss_window import WINDOW_SECONDS

__all__ = ["WAIT_SECONDS", "WINDOW_SECONDS", "Guard", "HeldMember", "Steps"]
