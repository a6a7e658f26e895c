"""What is made of measurements: ratios within a round, medians over them, the table, JSON, and bars."""

import json
import xml.etree.ElementTree as ET

import pytest

from tests.bench.load import Asked, parse_dnsperf, parse_load
from tests.bench.peers import Echo, Knot, Nsd
from tests.bench.plot import draw, scale
from tests.bench.report import Report
from tests.bench.rounds import Sample, Samples, by_turns, tell_all

DNSPERF = """\
Statistics:

  Queries sent:         210
  Queries completed:    200 (95.24%)
  Queries lost:         10 (4.76%)

  Response codes:       NOERROR 150 (75.00%), NXDOMAIN 50 (25.00%)
  Average packet size:  request 45, response 261
  Run time (s):         2.5
  Queries per second:   80.0
"""


def samples(**costs: list[float]) -> Samples:
    made = Samples()
    for server, of_rounds in costs.items():
        for cost in of_rounds:
            made.add(server, "a", Sample(1000 / cost, cost))
    return made


def test_ratios_are_taken_within_a_round_before_their_median_is() -> None:
    # The machine slows down threefold in the second round; the ratio of medians would be 6 / 4 = 1.5.
    made = samples(zkdns=[2, 6, 6], knot=[2, 6, 3], nsd=[4, 5, 4])
    assert made.cpu("zkdns", "a") == 6
    assert made.cpu_ratio(("zkdns", "a"), ("knot", "a")) == 1
    # Of several it is to the one that is best in most rounds.
    assert made.cpu_ratio(("zkdns", "a"), ("nsd", "a")) == pytest.approx(1.2)
    assert made.cpu_ratio(("zkdns", "a"), ("knot", "a"), ("nsd", "a")) == pytest.approx(1.2)
    assert made.rate_ratio(("zkdns", "a"), ("nsd", "a")) == pytest.approx(5 / 6)


def test_the_order_turns_round_in_each_round() -> None:
    orders = ["".join(order) for _, order in by_turns(3, "abc")]
    assert orders == ["abc", "cba", "abc"]


def test_each_server_is_told_beside_the_echo_and_the_best() -> None:
    report = Report()
    tell_all(
        report, samples(echo=[1.0], knot=[4.0], nsd=[2.0]), baseline=Echo.name, best_of=(Knot.name, Nsd.name)
    )
    assert [(figure.what, figure.measured) for figure in report.figures] == [
        ("echo, a", 1),
        ("knot, a", 4),
        ("nsd, a", 2),
    ]
    assert report.figures[1].details == {"answers_per_second": 250, "to_echo": 4, "to_best": 2}


def test_json_has_the_section_the_details_and_whether_the_bound_is_reached(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Report()
    report.section = "answers"
    report.add("to the best", 1.2, "x", bound=0.95, details={"low": 1.0})
    report.print(as_json=True)
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["section"], told["reached"], told["details"]) == ("answers", False, {"low": 1.0})


def test_dnsperf_is_understood() -> None:
    asked = parse_dnsperf(DNSPERF)
    assert asked == Asked(2.5, 200, 10, {"NOERROR": 150, "NXDOMAIN": 50})
    assert asked.rate == 80
    with pytest.raises(RuntimeError, match=r"dnsperf did not tell 'Run time"):
        parse_dnsperf("Error: connect failed")


def test_load_is_understood() -> None:
    told = {"answered": 9, "lost": 1, "seconds": 3.0, "wrong": 2, "truncated": 1, "p50": 20.5, "p99": 31.0}
    assert parse_load(json.dumps(told | {"rcodes": {"3": 9}})) == Asked(
        3.0, 9, 1, {"NXDOMAIN": 9}, 2, 1, 20.5, 31.0
    )


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [
        (Asked(1, 0), "answered nothing"),
        (Asked(1, 9, rcodes={"NOERROR": 8, "SERVFAIL": 1}), "SERVFAIL"),
        (Asked(1, 900, lost=2, rcodes={"NOERROR": 900}), "2 of 902"),
        (Asked(1, 9, rcodes={"NOERROR": 9}, wrong=1), "1 answers to other questions"),
    ],
)
def test_what_was_answered_wrongly_is_no_figure(asked: Asked, wrong: str) -> None:
    with pytest.raises(RuntimeError, match=wrong):
        asked.check("knot", "NOERROR")


def test_few_lost_ones_are_let_pass() -> None:
    Asked(1, 10_000, lost=9, rcodes={"NOERROR": 10_000}).check("knot", "NOERROR")


def test_one_long_bar_does_not_make_the_others_invisible() -> None:
    assert scale([3, 4, 5]) == 5
    assert scale([3, 4, 200]) == 10
    assert scale([0]) == scale([0, 0]) == 1


def test_bars_are_as_long_as_their_figures_and_bounds_are_lines() -> None:
    report = Report()
    report.section = "answers"
    report.add("knot & co", 4, "µs/answer")
    report.add("zkdns", 8, "µs/answer")
    report.add("zkdns to the best", 2, "x", bound=1)
    root = ET.fromstring(draw(report.figures))  # noqa: S314 - our own text
    svg = "{http://www.w3.org/2000/svg}"
    _, knot, zkdns, ratio = root.findall(f"{svg}rect")
    assert float(knot.attrib["width"]) * 2 == float(zkdns.attrib["width"]) == float(ratio.attrib["width"])
    assert len({bar.attrib["fill"] for bar in (knot, zkdns, ratio)}) == 3
    (bound,) = root.findall(f"{svg}line")
    assert float(bound.attrib["x1"]) - float(ratio.attrib["x"]) == float(ratio.attrib["width"]) / 2
    assert "knot & co" in [text.text for text in root.findall(f"{svg}text")]
