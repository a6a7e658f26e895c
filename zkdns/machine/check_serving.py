"""Whether zkdns runs, answers, and has what it answers from. Functions of what was found out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from zkdns.machine.findings import Finding, ok, warning, wrong
from zkdns.serverset.probe import ProbeResult


def check_answer(about: str, rcode: str, *, is_owner: bool) -> Finding:
    """What was answered where zkdns should be.

    Args:
        about: who was asked, and how.
        rcode: of a query for a zone's SOA.
        is_owner: whether it was answered with authority (AA).
    """
    if rcode == "SERVFAIL":
        return warning(
            about,
            "answers SERVFAIL: nothing has been read yet",
            "see whether ZooKeeper can be reached, below",
        )
    if rcode == "REFUSED":
        return wrong(
            about,
            "refuses: it serves other zones, or does not allow this asker",
            "run zkdns doctor with the server's own --config, or see allow",
        )
    if rcode != "NOERROR" or not is_owner:
        return wrong(
            about,
            f"answers {rcode} without being the zone's owner: it is not zkdns",
            "see who has the port, above",
        )
    return ok(about, "answers")


def check_zookeeper(probes: Iterable[ProbeResult]) -> Iterator[Finding]:
    """What each server of the connect string says."""
    probes = tuple(probes)
    failed = [probe for probe in probes if probe.failure is not None]
    for probe in probes:
        about = f"ZooKeeper {probe.server}"
        if probe.failure is not None:
            if len(failed) == len(probes):
                yield wrong(about, probe.failure, "start it, or name others (zookeeper = …)")
            else:
                yield warning(about, f"{probe.failure}; others are well", "start it, or name others")
        elif probe.is_read_only:
            yield warning(
                about, "has no quorum, and serves readers alone", "start more servers of its ensemble"
            )
        elif refusing := [root for root in probe.roots if root.refusal is not None]:
            for root in refusing:
                cure = (
                    "register a member, or correct namespace"
                    if "exist" in str(root.refusal)
                    else "name credentials that may (zookeeper_credentials)"
                )
                yield wrong(about, f"{root.path} {root.refusal}", cure)
        else:
            counted = (
                f"{root.path} has {root.children} znode{'s' * (root.children != 1)}" for root in probe.roots
            )
            yield ok(about, f"grants a session; {', '.join(counted)}")


def check_snapshot(age: float | None, failure: str | None, *, is_wanted: bool) -> Iterator[Finding]:
    """Whether a start without ZooKeeper would have anything to answer from.

    Args:
        age: seconds since the snapshot's table was right; None: there is none that can be used.
        failure: why there is none.
        is_wanted: whether a setting names one.
    """
    if not is_wanted:
        yield warning(
            "snapshot",
            "none is kept, so that a start without ZooKeeper has nothing to answer from",
            'write snapshot = "/var/lib/zkdns/table"',
        )
    elif failure is not None:
        yield warning("snapshot", failure, "it is written when ZooKeeper has been read")
    elif age is not None:
        yield ok("snapshot", f"is {_duration(age)} old")


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
