"""Made-up machines: their files below a directory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from zkdns.address import HostPort
from zkdns.machine.ledger import Before, apply, read_ledger
from zkdns.machine.plan import Plan, Wish, make_plan
from zkdns.machine.tree import Tree

LINK = "-> "
"""What stands before where a link leads to."""

ZKDNS = Wish(listening=(HostPort("127.0.0.1", 53),), zones=("discovery",))
AT_5300 = Wish(listening=(HostPort("127.0.0.1", 5300),), zones=("discovery",))


def make_tree(root: Path, files: Mapping[str, str]) -> Tree:
    """A machine with these files; a directory's name ends in a slash."""
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
    return Tree(root)


def everything(root: Path) -> dict[str, tuple[int, bytes | str | None]]:
    """All that is below a directory: modes, and contents, where links lead, or nothing for directories."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None,  # noqa: PTH115 - as it is spelled
        )
        for path in root.rglob("*")
    }


def set_up(tree: Tree, wish: Wish) -> Plan:
    """Plan and apply as the command does."""
    ledger = read_ledger(tree)
    plan = make_plan(Before(tree, ledger), wish)
    assert plan.obstacles == []
    apply(tree, ledger, plan.changes, plan.commands)
    return plan
