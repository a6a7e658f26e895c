"""Two lines on which clients were asked for what, from what has really run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ran:
    """One client and one case; the outcome is `passed`, `failed` or `skipped`, and then has a reason."""

    client: str
    case: str
    outcome: str
    reason: str = ""


def summary(all_ran: Iterable[Ran]) -> list[str]:
    """How many clients and cases were tried, and what was left out, by its reasons; nothing for nothing.

    A client that was not tried at all stands there without its cases.
    """
    counts: dict[str, int] = defaultdict(int)
    tried: set[str] = set()
    cases: set[str] = set()
    skipped: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for ran in all_ran:
        counts[ran.outcome] += 1
        if ran.outcome == "skipped":
            skipped[ran.reason][ran.client].append(ran.case)
        else:
            tried.add(ran.client)
            cases.add(ran.case)
    if not counts:
        return []
    told = [
        f"{counts[outcome]} {outcome}"
        for outcome in ("passed", "failed", "skipped")
        if counts[outcome] or outcome == "passed"
    ]
    lines = [f"clients: {len(tried)} clients x {len(cases)} cases: {', '.join(told)}"]
    if skipped:
        lines.append(f"skipped: {'; '.join(_group(reason, who, tried) for reason, who in skipped.items())}")
    return lines


def _group(reason: str, cases_of: dict[str, list[str]], tried: set[str]) -> str:
    """Who was left out of what for this reason; those together who were left out of the same."""
    alike: dict[str, list[str]] = defaultdict(list)
    for client, cases in cases_of.items():
        alike[f": {' + '.join(cases)}" if client in tried else ""].append(client)
    who = ", ".join(f"{', '.join(clients)}{cases}" for cases, clients in alike.items())
    return f"{who} ({reason})"
