"""A summary of the tested clients and cases in two lines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class CaseResult:
    """The result of one client and one case: `passed`, `failed`, or `skipped` with a reason."""

    client: str
    case: str
    outcome: str
    reason: str = ""


def summarize(results: Iterable[CaseResult]) -> list[str]:
    """The numbers of clients and cases, and the skipped ones by reason. Without results, no lines.

    A client is listed without its cases if all of them were skipped.
    """
    counts: dict[str, int] = defaultdict(int)
    tried: set[str] = set()
    cases: set[str] = set()
    skipped: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        counts[result.outcome] += 1
        if result.outcome == "skipped":
            skipped[result.reason][result.client].append(result.case)
        else:
            tried.add(result.client)
            cases.add(result.case)
    if not counts:
        return []
    outcomes = [
        f"{counts[outcome]} {outcome}"
        for outcome in ("passed", "failed", "skipped")
        if counts[outcome] or outcome == "passed"
    ]
    lines = [f"clients: {len(tried)} clients x {len(cases)} cases: {', '.join(outcomes)}"]
    if skipped:
        lines.append(
            f"skipped: {'; '.join(_group(reason, cases_of, tried) for reason, cases_of in skipped.items())}"
        )
    return lines


def _group(reason: str, cases_of: dict[str, list[str]], tried: set[str]) -> str:
    """The clients that were skipped for this reason, grouped by their skipped cases."""
    by_cases: dict[str, list[str]] = defaultdict(list)
    for client, cases in cases_of.items():
        by_cases[f": {' + '.join(cases)}" if client in tried else ""].append(client)
    clients_text = ", ".join(f"{', '.join(clients)}{cases}" for cases, clients in by_cases.items())
    return f"{clients_text} ({reason})"
