"""The bookkeeping of the guard.

It has no public equivalent: its errors appear only in a later collapse of the table, or as memory and work
that grow with the age of the process.
"""

from zkdns.guard import Guard


def served_in_table(guard: Guard) -> int:
    """The number of served members in ZooKeeper, as the guard counts them to detect a collapse."""
    return guard._losses._total


def endpoints_of_losses(guard: Guard, origin: str) -> int:
    """The number of endpoints that the guard stores for recent losses of a set."""
    return len(guard._losses.ledgers[origin]._lost_at)


def scheduled_checks(guard: Guard) -> int:
    """The number of times at which the guard is going to check a set, including outdated ones."""
    return len(guard._deadlines)


def recorded_sets(guard: Guard) -> int:
    """The number of sets of which the guard stores recent losses or new members."""
    return len(guard._losses.ledgers)
