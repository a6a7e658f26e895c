"""A bar chart of the results as SVG, written without a plotting library."""

from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from tests.bench.report import Result

_ROW, _LABELS, _BARS, _VALUES = 18, 330, 420, 130
_MARGIN = 12
_CUT = 2.5  # a bar longer than this many times the second longest is cut, so that the others stay readable
_ZKDNS_COLOUR, _OTHER_COLOUR, _OVER_LIMIT_COLOUR = "#2b6cb0", "#a0aec0", "#c53030"
_TEXT = 'font-family="sans-serif" font-size="12" fill="#1a202c"'


def write_plot(path: Path, results: Sequence[Result]) -> None:
    """Write the chart of all results to a file."""
    path.write_text(draw(results), encoding="utf-8")


def draw(results: Sequence[Result]) -> str:
    """The SVG text: a panel for each benchmark and unit, a bar for each result, a line for its limit."""
    top, parts = _MARGIN, []
    for (section, unit), panel in groupby(results, key=lambda result: (result.section, result.unit)):
        rows = list(panel)
        title = f"{section}, {unit}" if unit else section
        parts.append(f'<text x="{_MARGIN}" y="{top + 13}" font-weight="bold" {_TEXT}>{escape(title)}</text>')
        top += _ROW
        longest = scale([max(row.measured, row.limit or 0) for row in rows])
        for row in rows:
            parts += _bar(row, top, longest)
            top += _ROW
        top += _MARGIN
    width = _LABELS + _BARS + _VALUES
    size = f'width="{width}" height="{top}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {top}">',
            f'<rect {size} fill="white"/>',
            *parts,
            "</svg>\n",
        ]
    )


def scale(values: Sequence[float]) -> float:
    """The value of a bar of full width: the largest, but at most `_CUT` times the second largest."""
    first, *others = sorted(values, reverse=True)
    if not others or others[0] <= 0:
        return first or 1.0
    return min(first, others[0] * _CUT)


def _bar(result: Result, top: int, longest: float) -> list[str]:
    length = min(max(result.measured, 0) / longest, 1.0) * _BARS
    is_zkdns = result.limit is not None or result.name.startswith("zkdns")
    colour = (
        _OVER_LIMIT_COLOUR
        if result.is_within_limit is False
        else _ZKDNS_COLOUR
        if is_zkdns
        else _OTHER_COLOUR
    )
    cut = " »" if result.measured > longest else ""
    parts = [
        f'<text x="{_LABELS - 8}" y="{top + 12}" text-anchor="end" {_TEXT}>{escape(result.name)}</text>',
        f'<rect x="{_LABELS}" y="{top + 2}" width="{length:.1f}" height="{_ROW - 4}" fill="{colour}"/>',
        f'<text x="{_LABELS + length + 6:.1f}" y="{top + 12}" {_TEXT}>{result.measured:.3g}{cut}</text>',
    ]
    if result.limit is not None:
        at = _LABELS + min(result.limit / longest, 1.0) * _BARS
        ends = f'x1="{at:.1f}" y1="{top}" x2="{at:.1f}" y2="{top + _ROW}"'
        parts.append(f'<line {ends} stroke="#1a202c" stroke-dasharray="3 2"/>')
    return parts
