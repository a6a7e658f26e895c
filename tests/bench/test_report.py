"""Evaluation of measurements: ratios within a round, medians of rounds, JSON, and bar charts."""

import json
import xml.etree.ElementTree as ET

import pytest

from tests.bench.load import LoadResult, parse_dnsperf, parse_load
from tests.bench.measurement import Sample, Samples, alternating_rounds, report_samples
from tests.bench.peers import Echo, Knot, Nsd
from tests.bench.plot import draw, scale
from tests.bench.report import Report

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


def test_a_ratio_is_the_median_of_the_ratios_within_each_round() -> None:
    # The machine slows down threefold in the second round; the ratio of medians would be 6 / 4 = 1.5.
    made = samples(zkdns=[2, 6, 6], knot=[2, 6, 3], nsd=[4, 5, 4])
    assert made.cpu("zkdns", "a") == 6
    assert made.cpu_ratio(("zkdns", "a"), ("knot", "a")) == 1
    # With several others, the ratio is to the best one.
    assert made.cpu_ratio(("zkdns", "a"), ("nsd", "a")) == pytest.approx(1.2)
    assert made.cpu_ratio(("zkdns", "a"), ("knot", "a"), ("nsd", "a")) == pytest.approx(1.2)
    assert made.rate_ratio(("zkdns", "a"), ("nsd", "a")) == pytest.approx(5 / 6)


def test_the_order_is_reversed_in_every_second_round() -> None:
    orders = ["".join(order) for _, order in alternating_rounds(3, "abc")]
    assert orders == ["abc", "cba", "abc"]


def test_each_server_is_compared_with_the_echo_and_the_best_other_server() -> None:
    report = Report()
    report_samples(
        report, samples(echo=[1.0], knot=[4.0], nsd=[2.0]), baseline=Echo.name, best_of=(Knot.name, Nsd.name)
    )
    assert [(result.name, result.measured) for result in report.results] == [
        ("echo, a", 1),
        ("knot, a", 4),
        ("nsd, a", 2),
    ]
    assert report.results[1].details == {"answers_per_second": 250, "to_echo": 4, "to_best": 2}


def test_json_has_section_details_and_whether_the_value_is_within_its_limit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Report()
    report.section = "answers"
    report.add("ratio", 1.2, "x", limit=0.95, details={"low": 1.0})
    report.print(as_json=True)
    (result,) = json.loads(capsys.readouterr().out)
    assert (result["section"], result["within_limit"], result["details"]) == ("answers", False, {"low": 1.0})


def test_dnsperf_output_is_parsed() -> None:
    result = parse_dnsperf(DNSPERF)
    assert result == LoadResult(2.5, 200, 10, {"NOERROR": 150, "NXDOMAIN": 50})
    assert result.rate == 80
    with pytest.raises(RuntimeError, match="Run time"):
        parse_dnsperf("Error: connect failed")


def test_load_output_is_parsed() -> None:
    values = {"answered": 9, "lost": 1, "seconds": 3.0, "wrong": 2, "truncated": 1, "p50": 20.5, "p99": 31.0}
    assert parse_load(json.dumps(values | {"rcodes": {"3": 9}})) == LoadResult(
        3.0, 9, 1, {"NXDOMAIN": 9}, 2, 1, 20.5, 31.0
    )


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (LoadResult(1, 0), "answered no query"),
        (LoadResult(1, 9, rcodes={"NOERROR": 8, "SERVFAIL": 1}), "SERVFAIL"),
        (LoadResult(1, 900, lost=2, rcodes={"NOERROR": 900}), "2 of 902"),
        (LoadResult(1, 9, rcodes={"NOERROR": 9}, wrong=1), "1 answers with a wrong question"),
    ],
)
def test_wrong_or_missing_answers_fail_the_measurement(result: LoadResult, error: str) -> None:
    with pytest.raises(RuntimeError, match=error):
        result.check("knot", "NOERROR")


def test_up_to_a_thousandth_of_the_queries_may_be_lost() -> None:
    LoadResult(1, 10_000, lost=9, rcodes={"NOERROR": 10_000}).check("knot", "NOERROR")


def test_one_long_bar_is_cut_so_that_the_others_stay_visible() -> None:
    assert scale([3, 4, 5]) == 5
    assert scale([3, 4, 200]) == 10
    assert scale([0]) == scale([0, 0]) == 1


def test_bar_lengths_are_proportional_and_limits_are_lines() -> None:
    report = Report()
    report.section = "answers"
    report.add("knot & co", 4, "µs/answer")
    report.add("zkdns", 8, "µs/answer")
    report.add("CPU cost of zkdns / best other server", 2, "x", limit=1)
    root = ET.fromstring(draw(report.results))  # noqa: S314 - our own text
    svg = "{http://www.w3.org/2000/svg}"
    _, knot, zkdns, ratio = root.findall(f"{svg}rect")
    assert float(knot.attrib["width"]) * 2 == float(zkdns.attrib["width"]) == float(ratio.attrib["width"])
    assert len({bar.attrib["fill"] for bar in (knot, zkdns, ratio)}) == 3
    (limit,) = root.findall(f"{svg}line")
    assert float(limit.attrib["x1"]) - float(ratio.attrib["x"]) == float(ratio.attrib["width"]) / 2
    assert "knot & co" in [text.text for text in root.findall(f"{svg}text")]
