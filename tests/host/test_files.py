"""File trees: how paths, links and odd files are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.host.trees import make_tree
from zkdns.host.files import HostError


def test_a_loop_of_links_is_an_error(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, {"/etc/a": "-> b", "/etc/b": "-> a"})
    with pytest.raises(HostError, match="loop"):
        tree.text("/etc/a")


def test_a_directory_in_place_of_a_file_is_an_error(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, {"/etc/directory/": ""})
    with pytest.raises(HostError, match="is not a regular file"):
        tree.state("/etc/directory")


def test_a_loop_of_links_to_directories_is_an_error(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, {"/etc": "-> /a", "/a": "-> etc"})
    with pytest.raises(HostError, match="loop"):
        tree.text("/etc/resolv.conf")
