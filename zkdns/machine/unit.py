"""What systemd tells zkdns' own unit, for who examines it from outside."""

from __future__ import annotations

from collections.abc import Mapping

from zkdns.machine.tree import Tree

# As in systemd/zkdns.service; the credentials as on the page operations.md.
_KNOWN = {
    "STATE_DIRECTORY": ("/var/lib/zkdns", "table"),
    "CREDENTIALS_DIRECTORY": ("/etc/zkdns", "zookeeper.toml"),
}


def environment_of_unit(environment: Mapping[str, str], tree: Tree) -> dict[str, str]:
    """The variables with which root reads the unit's configuration as the unit does.

    Args:
        environment: root's own, whose variables stay as they are.
        tree: the machine's files; a directory that does not hold what zkdns looks for is not told.
    """
    there = {
        variable: directory
        for variable, (directory, name) in _KNOWN.items()
        if tree.exists(f"{directory}/{name}")
    }
    return there | dict(environment)
