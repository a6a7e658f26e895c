"""What a doctor says."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Level: TypeAlias = Literal["ok", "warning", "wrong"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    about: str
    """What it concerns, in one word or two."""
    level: Level
    found: str
    cure: str = ""
    """What to do about it; empty where nothing is to be done."""


def ok(about: str, found: str) -> Finding:
    """It is well."""
    return Finding(about, "ok", found)


def warning(about: str, found: str, cure: str = "") -> Finding:
    """It works, but not in every case, or not for long."""
    return Finding(about, "warning", found, cure)


def wrong(about: str, found: str, cure: str) -> Finding:
    """It does not work."""
    return Finding(about, "wrong", found, cure)
