import pytest

from tests.clients.summary import CaseResult, summarize

_NO_SRV = "returns only addresses"


@pytest.mark.parametrize(
    ("results", "lines"),
    [
        ([], []),
        ([CaseResult("dig", "A", "passed")], ["clients: 1 clients x 1 cases: 1 passed"]),
        (
            [
                CaseResult("curl", "A", "passed"),
                CaseResult("curl", "SRV", "skipped", _NO_SRV),
                CaseResult("curl", "100 SRV", "skipped", _NO_SRV),
                CaseResult("getent", "A", "passed"),
                CaseResult("getent", "SRV", "skipped", _NO_SRV),
                CaseResult("getent", "100 SRV", "skipped", _NO_SRV),
                CaseResult("dig", "A", "failed"),
                CaseResult("dig", "SRV", "passed"),
                CaseResult("kdig", "A", "skipped", "needs knot"),
                CaseResult("kdig", "SRV", "skipped", "needs knot"),
            ],
            [
                "clients: 3 clients x 2 cases: 3 passed, 1 failed, 6 skipped",
                "skipped: curl, getent: SRV + 100 SRV (returns only addresses); kdig (needs knot)",
            ],
        ),
        (
            [CaseResult("dig", "A", "skipped", "no network")],
            ["clients: 0 clients x 0 cases: 0 passed, 1 skipped", "skipped: dig (no network)"],
        ),
    ],
)
def test_summary_counts_results_and_groups_skipped_cases_by_reason(
    results: list[CaseResult], lines: list[str]
) -> None:
    assert summarize(results) == lines
