"""The state of `zkdns top`: the view, its order and the filter, and how keys change them. No I/O."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import Final, Literal, TypeAlias, get_args

View: TypeAlias = Literal["overview", "services", "upstreams", "names"]
VIEWS: Final[tuple[View, ...]] = get_args(View)
SORTS: Final[dict[View, tuple[str, ...]]] = {
    "overview": ("",),
    "services": ("queries/s", "members", "held", "name"),
    "upstreams": ("queries/s", "timeouts/s", "rtt", "name"),
    "names": ("queries/s", "name"),
}
"""The orders of each view. Numbers are sorted from the highest, names from the first."""

ESCAPE: Final = "\x1b"
_ENTER, _BACKSPACE, _CLEAR = frozenset("\r\n"), frozenset("\x7f\b"), "\x15"
# An escape sequence of a terminal (ECMA-48 §5.4, or SS3 and a character), or one character.
_KEY = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO.|.", re.DOTALL)
_MAX_FILTER = 100  # characters


class KeyDecoder:
    """Splits the bytes that a terminal sends into keys.

    A key is a character or a whole escape sequence. An escape character at the end of a read is the key Esc,
    since terminals send a sequence at once.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")

    def keys(self, data: bytes) -> Iterator[str]:
        """Yield the keys in the bytes of one read."""
        for found in _KEY.finditer(self._decoder.decode(data)):
            yield found[0].replace("\x1bO", "\x1b[")


class TopState:
    """The view, its order and the filter.

    Attributes:
        view: the current view.
        words: the filter: names that contain all of its words are shown.
        is_editing: whether keys edit the filter.
        has_help: whether the help is shown instead of the view.
        has_ended: whether the user has quit.

    Args:
        view: the first view.
    """

    def __init__(self, view: View = "overview") -> None:
        self.view = view
        self.words = ""
        self.is_editing = self.has_help = self.has_ended = False
        self._sorts = dict.fromkeys(VIEWS, 0)

    @property
    def sort(self) -> str:
        """The order of the current view, one of `SORTS`."""
        return SORTS[self.view][self._sorts[self.view]]

    def selects(self, name: str) -> bool:
        """Return whether the filter selects a name."""
        return all(word in name.lower() for word in self.words.lower().split())

    def press(self, keys: Iterable[str]) -> None:
        """Handle keys."""
        for key in keys:
            if self.is_editing:
                self._edit(key)
            else:
                self._command(key)

    def _command(self, key: str) -> None:
        at = VIEWS.index(self.view)
        match key:
            case "q" | "Q":
                self.has_ended = True
            case "?" | "h":
                self.has_help = not self.has_help
            case "s":
                self._sorts[self.view] = (self._sorts[self.view] + 1) % len(SORTS[self.view])
            case "/":
                self.is_editing, self.has_help = self.view != "overview", False
            case "1" | "2" | "3" | "4":
                self._show(int(key) - 1)
            case "\t" | "\x1b[C":
                self._show(at + 1)
            case "\x1b[Z" | "\x1b[D":
                self._show(at - 1)
            case "\x1b" if self.has_help:
                self.has_help = False
            case "\x1b":
                self.words = ""
            case _:
                pass

    def _show(self, number: int) -> None:
        self.view, self.has_help = VIEWS[number % len(VIEWS)], False

    def _edit(self, key: str) -> None:
        """Edit the filter: Enter keeps it, Esc removes it."""
        if key in _ENTER:
            self.is_editing = False
        elif key == ESCAPE:
            self.is_editing, self.words = False, ""
        elif key in _BACKSPACE:
            self.words = self.words[:-1]
        elif key == _CLEAR:
            self.words = ""
        elif key.isprintable() and len(self.words) < _MAX_FILTER:
            self.words += key
