"""The figures as bars, in SVG: written by hand, since a plotting library is a lot of weight for bars."""

from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from tests.bench.report import Figure

_ROW, _LABELS, _BARS, _VALUES = 18, 330, 420, 130
_MARGIN = 12
_CUT = 2.5  # a bar that many times as long as the next is cut, or the others could not be told apart
_OURS, _THEIRS, _MISSED = "#2b6cb0", "#a0aec0", "#c53030"
_TEXT = 'font-family="sans-serif" font-size="12" fill="#1a202c"'


def write_plot(path: Path, figures: Sequence[Figure]) -> None:
    """Draw all figures."""
    path.write_text(draw(figures), encoding="utf-8")


def draw(figures: Sequence[Figure]) -> str:
    """The text of an SVG: a panel for each benchmark and unit, a bar for each figure, a line for a bound."""
    top, parts = _MARGIN, []
    for (section, unit), panel in groupby(figures, key=lambda figure: (figure.section, figure.unit)):
        rows = list(panel)
        title = f"{section}, {unit}" if unit else section
        parts.append(f'<text x="{_MARGIN}" y="{top + 13}" font-weight="bold" {_TEXT}>{escape(title)}</text>')
        top += _ROW
        longest = scale([max(row.measured, row.bound or 0) for row in rows])
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
    """The value that fills the width: the largest, unless it dwarfs the next."""
    first, *others = sorted(values, reverse=True)
    if not others or others[0] <= 0:
        return first or 1.0
    return min(first, others[0] * _CUT)


def _bar(figure: Figure, top: int, longest: float) -> list[str]:
    length = min(max(figure.measured, 0) / longest, 1.0) * _BARS
    is_ours = figure.bound is not None or figure.what.startswith("zkdns")
    colour = _MISSED if figure.is_reached is False else _OURS if is_ours else _THEIRS
    cut = " »" if figure.measured > longest else ""
    parts = [
        f'<text x="{_LABELS - 8}" y="{top + 12}" text-anchor="end" {_TEXT}>{escape(figure.what)}</text>',
        f'<rect x="{_LABELS}" y="{top + 2}" width="{length:.1f}" height="{_ROW - 4}" fill="{colour}"/>',
        f'<text x="{_LABELS + length + 6:.1f}" y="{top + 12}" {_TEXT}>{figure.measured:.3g}{cut}</text>',
    ]
    if figure.bound is not None:
        at = _LABELS + min(figure.bound / longest, 1.0) * _BARS
        ends = f'x1="{at:.1f}" y1="{top}" x2="{at:.1f}" y2="{top + _ROW}"'
        parts.append(f'<line {ends} stroke="#1a202c" stroke-dasharray="3 2"/>')
    return parts
