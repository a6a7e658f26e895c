import pytest

from tests.clients.summary import Ran, summary

_NO_SRV = "asks for addresses only"


@pytest.mark.parametrize(
    ("ran", "lines"),
    [
        ([], []),
        ([Ran("dig", "A", "passed")], ["clients: 1 clients x 1 cases: 1 passed"]),
        (
            [
                Ran("curl", "A", "passed"),
                Ran("curl", "SRV", "skipped", _NO_SRV),
                Ran("curl", "100 SRV", "skipped", _NO_SRV),
                Ran("getent", "A", "passed"),
                Ran("getent", "SRV", "skipped", _NO_SRV),
                Ran("getent", "100 SRV", "skipped", _NO_SRV),
                Ran("dig", "A", "failed"),
                Ran("dig", "SRV", "passed"),
                Ran("kdig", "A", "skipped", "needs knot"),
                Ran("kdig", "SRV", "skipped", "needs knot"),
            ],
            [
                "clients: 3 clients x 2 cases: 3 passed, 1 failed, 6 skipped",
                "skipped: curl, getent: SRV + 100 SRV (asks for addresses only); kdig (needs knot)",
            ],
        ),
        (
            [Ran("dig", "A", "skipped", "no network")],
            ["clients: 0 clients x 0 cases: 0 passed, 1 skipped", "skipped: dig (no network)"],
        ),
    ],
)
def test_tells_who_was_asked_for_what_and_what_was_left_out_by_its_reasons(
    ran: list[Ran], lines: list[str]
) -> None:
    assert summary(ran) == lines
