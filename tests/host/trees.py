"""Machines for tests: files below a directory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from zkdns.address import HostPort
from zkdns.host.files import FileTree
from zkdns.host.setup.journal import OriginalTree, apply, read_journal
from zkdns.host.setup.plan import SetupPlan, SetupRequest, make_plan

LINK = "-> "
"""The prefix of a link's target in `make_tree`."""

ZKDNS = SetupRequest(listening=(HostPort("127.0.0.1", 53),), zones=("discovery",))
AT_5300 = SetupRequest(listening=(HostPort("127.0.0.1", 5300),), zones=("discovery",))


def make_tree(root: Path, files: Mapping[str, str]) -> FileTree:
    """Create a machine with these files; the name of an empty directory ends in a slash."""
    for path, text in files.items():
        place = root / path.lstrip("/")
        if path.endswith("/"):
            place.mkdir(parents=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith(LINK):
            place.symlink_to(text.removeprefix(LINK))
        else:
            place.write_text(text)
    return FileTree(root)


def everything(root: Path) -> dict[str, tuple[int, bytes | str | None]]:
    """Everything below a directory, by path: the mode, and the content, the target of a link, or None."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None,  # noqa: PTH115 - the target as written
        )
        for path in root.rglob("*")
    }


def set_up(tree: FileTree, request: SetupRequest) -> SetupPlan:
    """Plan and apply the changes, as the command does."""
    journal = read_journal(tree)
    plan = make_plan(OriginalTree(tree, journal), request)
    assert plan.obstacles == []
    apply(tree, journal, plan.changes, plan.commands)
    return plan
