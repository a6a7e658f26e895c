"""Escape foreign text, so that it stays in its place and no terminal executes it.

Foreign text comes from ZooKeeper, DNS, a query or a file. It may contain sequences that a terminal would
execute, line ends that would forge a line, and characters that reorder the text around them.

All characters that Unicode does not define as printable are escaped as in Python's `ascii`: control
characters (C0, DEL, C1), line and paragraph separators, format characters (bidirectional controls,
zero-width), spaces except the ASCII one, private and unassigned characters, and lone surrogates.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """Escape a text for a terminal or for a line, such as a sentence or a field between tabs."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def word(text: str) -> str:
    """Escape a text for a line whose fields are separated by spaces: as `printable`, and spaces too."""
    return printable(text).replace(" ", r"\x20")


def printable_json(text: str) -> str:
    r"""Escape a JSON text, in which characters that are not printable only occur in strings.

    JSON escapes only C0 itself. The result has the same meaning: the new escapes are JSON's (`\u2028`).
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _json_escape(char) for char in text)


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be", errors="surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
