"""What setup writes can be taken back to the byte, is never half-done, and spares what others changed."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.machine.trees import everything, make_tree
from zkdns.machine.ledger import PLACE, Before, Change, apply, read_ledger, undo
from zkdns.machine.tree import Absent, File, Link, MachineError, Tree


def changes_of(tree: Tree) -> list[Change]:
    """A file that is rewritten, a new one in a new directory, and a link that becomes a file."""
    return [
        Change("/etc/resolv.conf", tree.state("/etc/resolv.conf"), File(b"nameserver 127.0.0.1\n", 0o640)),
        Change("/etc/new/deep/zkdns.conf", Absent(), File(b"new\n")),
        Change("/etc/link", tree.state("/etc/link"), File(b"no link any more\n")),
    ]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = make_tree(
        tmp_path, {"/etc/resolv.conf": "nameserver 10.0.0.53", "/etc/link": "-> ./somewhere//else"}
    )
    made.at("/etc/resolv.conf").chmod(0o640)
    return made


def test_undo_restores_bytes_modes_links_and_absence(tree: Tree) -> None:
    before = everything(tree.root)
    apply(tree, read_ledger(tree), changes_of(tree))
    assert tree.text("/etc/resolv.conf") == "nameserver 127.0.0.1\n"
    assert stat.S_IMODE(tree.at("/etc/resolv.conf").stat().st_mode) == 0o640
    assert not tree.at("/etc/link").is_symlink()
    assert tree.text("/etc/new/deep/zkdns.conf") == "new\n"
    undo(tree, read_ledger(tree))
    assert everything(tree.root) == before


def test_a_file_is_written_in_place_as_one_must_be_that_is_a_mount(tree: Tree) -> None:
    inode = tree.at("/etc/resolv.conf").stat().st_ino
    apply(tree, read_ledger(tree), changes_of(tree))
    assert tree.at("/etc/resolv.conf").stat().st_ino == inode


def test_applying_twice_changes_nothing(tree: Tree) -> None:
    changes = changes_of(tree)
    assert len(apply(tree, read_ledger(tree), changes)) == 3
    once = everything(tree.root)
    assert apply(tree, read_ledger(tree), changes) == ()
    assert everything(tree.root) == once


def test_what_is_no_longer_wanted_is_taken_back_and_the_first_state_is_kept(tree: Tree) -> None:
    before = everything(tree.root)
    changes = changes_of(tree)
    apply(tree, read_ledger(tree), changes)
    other = Change("/etc/resolv.conf", changes[0].before, File(b"nameserver 127.0.0.2\n", 0o640))
    apply(tree, read_ledger(tree), [other])
    assert tree.text("/etc/resolv.conf") == "nameserver 127.0.0.2\n"
    assert tree.state("/etc/link") == Link("./somewhere//else")
    assert not tree.exists("/etc/new/deep/zkdns.conf")
    undo(tree, read_ledger(tree))
    assert everything(tree.root) == before


def test_a_change_that_cannot_be_made_leaves_none_of_those_before_it(tree: Tree) -> None:
    make_tree(tree.root, {"/etc/blocked": "a file where a directory would have to be"})
    before = everything(tree.root)
    impossible = Change("/etc/blocked/zkdns.conf", Absent(), File(b""))
    with pytest.raises(MachineError, match=r"/etc/blocked/zkdns\.conf: cannot be written"):
        apply(tree, read_ledger(tree), [*changes_of(tree), impossible])
    assert everything(tree.root) == before


def test_a_second_setup_that_fails_leaves_the_first_one(tree: Tree) -> None:
    before = everything(tree.root)
    make_tree(tree.root, {"/etc/blocked": ""})
    changes = changes_of(tree)
    apply(tree, read_ledger(tree), changes)
    once = everything(tree.root)
    with pytest.raises(MachineError):
        apply(tree, read_ledger(tree), [changes[1], Change("/etc/blocked/b", Absent(), File(b""))])
    assert everything(tree.root) == once
    undo(tree, read_ledger(tree))
    tree.at("/etc/blocked").unlink()
    assert everything(tree.root) == before


def test_what_others_have_changed_since_is_left_alone(tree: Tree) -> None:
    apply(tree, read_ledger(tree), changes_of(tree))
    tree.at("/etc/resolv.conf").write_text("nameserver 10.0.0.1\n")
    changed = everything(tree.root)
    for touch in (lambda: Before(tree, read_ledger(tree)), lambda: undo(tree, read_ledger(tree))):
        with pytest.raises(MachineError, match=r"/etc/resolv\.conf: was changed by somebody else") as told:
            touch()
        assert PLACE in str(told.value)
    assert everything(tree.root) == changed


def test_the_way_back_is_known_when_the_power_goes_in_between(tree: Tree) -> None:
    """The ledger is written first; so a file of it may still be as it was before."""
    before = everything(tree.root)
    apply(tree, read_ledger(tree), changes_of(tree))
    tree.at("/etc/new/deep/zkdns.conf").unlink()
    undo(tree, read_ledger(tree))
    assert everything(tree.root) == before


def test_a_tree_is_seen_as_it_was_before(tree: Tree) -> None:
    apply(tree, read_ledger(tree), changes_of(tree))
    seen = Before(tree, read_ledger(tree))
    assert seen.text("/etc/resolv.conf") == "nameserver 10.0.0.53"
    assert seen.state("/etc/link") == Link("./somewhere//else")
    assert not seen.exists("/etc/new/deep/zkdns.conf")


def test_a_ledger_that_cannot_be_understood_is_a_sentence(tree: Tree) -> None:
    make_tree(tree.root, {PLACE: "{"})
    with pytest.raises(MachineError, match=r"setup\.json: cannot be understood .* delete it"):
        read_ledger(tree)


def test_links_that_lead_in_a_circle_are_a_sentence(tree: Tree) -> None:
    make_tree(tree.root, {"/etc/a": "-> b", "/etc/b": "-> a"})
    with pytest.raises(MachineError, match="circle"):
        tree.text("/etc/a")


def test_what_is_no_file_is_left_alone(tree: Tree) -> None:
    make_tree(tree.root, {"/etc/directory/": ""})
    with pytest.raises(MachineError, match="no regular file"):
        tree.state("/etc/directory")


@pytest.mark.parametrize("leads_to", ["{outside}", "../../../../../..{outside}"])
def test_links_to_directories_do_not_lead_out_of_an_image(tmp_path: Path, leads_to: str) -> None:
    """As `/etc -> /config/etc`, which is in the image when that is the root."""
    outside = tmp_path / "outside"
    files = {"resolv.conf": "-> ../run/resolv.conf", "other.conf": "theirs"}
    make_tree(outside, files)
    before = everything(outside)
    tree = make_tree(
        tmp_path / "image",
        {
            "/etc": f"-> {leads_to.format(outside=outside)}",
            **{f"{outside}/{name}": text for name, text in {**files, "inner.conf": ""}.items()},
            f"{outside.parent}/run/resolv.conf": "nameserver 10.0.0.53\n",
        },
    )
    old = everything(tree.root)
    assert tree.text("/etc/resolv.conf") == "nameserver 10.0.0.53\n"
    assert tree.names("/etc", ".conf") == ["inner.conf", "other.conf", "resolv.conf"]
    changes = [
        Change("/etc/other.conf", tree.state("/etc/other.conf"), File(b"ours")),
        Change("/etc/new/zkdns.conf", Absent(), File(b"ours")),
    ]
    apply(tree, read_ledger(tree), changes)
    assert everything(outside) == before
    assert (tree.root / str(outside)[1:] / "new" / "zkdns.conf").read_text() == "ours"
    undo(tree, read_ledger(tree))
    assert everything(tree.root) == old


def test_directories_whose_links_go_in_a_circle_are_a_sentence(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, {"/etc": "-> /a", "/a": "-> etc"})
    with pytest.raises(MachineError, match="circle"):
        tree.text("/etc/resolv.conf")
