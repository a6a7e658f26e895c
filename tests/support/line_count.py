"""How much work something is, by a count that no other load of the machine changes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any


@contextlib.contextmanager
def at_most_lines(most: int) -> Iterator[None]:
    """Fail if functions that are called within run more lines of Python than this, as soon as they do."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        del frame, argument
        count += event == "line"
        check()
        return trace

    def check() -> None:
        assert count <= most, f"more than {most} lines were run"

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
    check()  # what was called may have caught the failure
