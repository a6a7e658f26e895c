"""Changes of setup: all of them or none, undone to the byte, without overwriting other programs' changes."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path, PurePosixPath

import msgspec
import pytest

from tests.host.trees import everything, make_tree
from zkdns.host.files import Absent, ChangedError, File, FileState, FileTree, HostError, Link
from zkdns.host.setup.journal import (
    JOURNAL_FILE,
    Change,
    ChangeJournal,
    OriginalTree,
    apply,
    read_journal,
    undo,
)


def changes_of(tree: FileTree) -> list[Change]:
    """A changed file, a new one in a new directory, and a link that becomes a file."""
    return [
        Change("/etc/resolv.conf", tree.state("/etc/resolv.conf"), File(b"nameserver 127.0.0.1\n", 0o640)),
        Change("/etc/new/deep/zkdns.conf", Absent(), File(b"new\n")),
        Change("/etc/link", tree.state("/etc/link"), File(b"a file now\n")),
    ]


@pytest.fixture
def tree(tmp_path: Path) -> FileTree:
    made = make_tree(
        tmp_path, {"/etc/resolv.conf": "nameserver 10.0.0.53", "/etc/link": "-> ./somewhere//else"}
    )
    made.at("/etc/resolv.conf").chmod(0o640)
    return made


def test_undo_restores_bytes_modes_links_and_absence(tree: FileTree) -> None:
    before = everything(tree.root)
    apply(tree, read_journal(tree), changes_of(tree))
    assert tree.text("/etc/resolv.conf") == "nameserver 127.0.0.1\n"
    assert stat.S_IMODE(tree.at("/etc/resolv.conf").stat().st_mode) == 0o640
    assert not tree.at("/etc/link").is_symlink()
    assert tree.text("/etc/new/deep/zkdns.conf") == "new\n"
    undo(tree, read_journal(tree))
    assert everything(tree.root) == before


def test_a_file_with_several_hard_links_is_written_in_place(tree: FileTree) -> None:
    place, other = tree.at("/etc/resolv.conf"), tree.at("/etc/other-name")
    os.link(place, other)
    apply(tree, read_journal(tree), changes_of(tree))
    assert place.samefile(other)
    assert other.read_text() == "nameserver 127.0.0.1\n"
    undo(tree, read_journal(tree))
    assert other.read_text() == "nameserver 10.0.0.53"


def test_a_replaced_file_keeps_owner_and_attributes(tree: FileTree) -> None:
    place = tree.at("/etc/resolv.conf")
    try:
        os.chown(place, 12, 34)
        os.setxattr(place, "user.note", b"a label")
    except OSError as error:
        pytest.skip(f"owners or attributes cannot be set here: {error}")
    place.chmod(0o640)
    inode = place.stat().st_ino
    apply(tree, read_journal(tree), changes_of(tree))
    status = place.stat()
    assert status.st_ino != inode
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12, 34, 0o640)
    assert os.getxattr(place, "user.note") == b"a label"


def test_applying_twice_changes_nothing(tree: FileTree) -> None:
    changes = changes_of(tree)
    assert len(apply(tree, read_journal(tree), changes)) == 3
    once = everything(tree.root)
    assert apply(tree, read_journal(tree), changes) == ()
    assert everything(tree.root) == once


def test_unwanted_changes_are_undone_and_the_original_state_is_kept(tree: FileTree) -> None:
    before = everything(tree.root)
    changes = changes_of(tree)
    apply(tree, read_journal(tree), changes)
    other = Change("/etc/resolv.conf", changes[0].before, File(b"nameserver 127.0.0.2\n", 0o640))
    apply(tree, read_journal(tree), [other])
    assert tree.text("/etc/resolv.conf") == "nameserver 127.0.0.2\n"
    assert tree.state("/etc/link") == Link("./somewhere//else")
    assert not tree.exists("/etc/new/deep/zkdns.conf")
    undo(tree, read_journal(tree))
    assert everything(tree.root) == before


def test_a_failed_change_undoes_those_before_it(tree: FileTree) -> None:
    make_tree(tree.root, {"/etc/blocked": "a file in place of a directory"})
    before = everything(tree.root)
    impossible = Change("/etc/blocked/zkdns.conf", Absent(), File(b""))
    with pytest.raises(HostError, match=r"/etc/blocked/zkdns\.conf: cannot be written"):
        apply(tree, read_journal(tree), [*changes_of(tree), impossible])
    assert everything(tree.root) == before


def test_a_failed_second_setup_keeps_the_first(tree: FileTree) -> None:
    before = everything(tree.root)
    make_tree(tree.root, {"/etc/blocked": ""})
    changes = changes_of(tree)
    apply(tree, read_journal(tree), changes)
    once = everything(tree.root)
    with pytest.raises(HostError):
        apply(tree, read_journal(tree), [changes[1], Change("/etc/blocked/b", Absent(), File(b""))])
    assert everything(tree.root) == once
    undo(tree, read_journal(tree))
    tree.at("/etc/blocked").unlink()
    assert everything(tree.root) == before


def test_files_that_other_programs_changed_stay_unchanged(tree: FileTree) -> None:
    apply(tree, read_journal(tree), changes_of(tree))
    tree.at("/etc/resolv.conf").write_text("nameserver 10.0.0.1\n")
    changed = everything(tree.root)
    for call in (lambda: OriginalTree(tree, read_journal(tree)), lambda: undo(tree, read_journal(tree))):
        with pytest.raises(HostError, match=r"^/etc/resolv\.conf: another program has changed it") as raised:
            call()
        assert JOURNAL_FILE in str(raised.value)
    assert everything(tree.root) == changed


# Other programs write one of these while the user reads the question of the command.
WRITTEN = ["/etc/resolv.conf", "/etc/new/deep/zkdns.conf", "/etc/link", JOURNAL_FILE]


def write_as_other_program(tree: FileTree, path: str) -> None:
    place = tree.at(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    if path == JOURNAL_FILE:
        other = Change("/etc/theirs", Absent(), File(b"theirs\n"))
        place.write_bytes(msgspec.json.encode(ChangeJournal((other,))))
    else:
        place.write_text("theirs\n")


@pytest.mark.parametrize("path", WRITTEN)
def test_what_was_written_after_the_plan_stays(tree: FileTree, path: str) -> None:
    journal, changes = read_journal(tree), changes_of(tree)
    write_as_other_program(tree, path)
    before = everything(tree.root)
    with pytest.raises(ChangedError, match=rf"^{re.escape(path)}: another .* run the command again"):
        apply(tree, journal, changes)
    assert everything(tree.root) == before


@pytest.mark.parametrize("path", WRITTEN)
def test_what_was_written_before_an_undo_stays(tree: FileTree, path: str) -> None:
    apply(tree, read_journal(tree), changes_of(tree))
    journal = read_journal(tree)
    write_as_other_program(tree, path)
    before = everything(tree.root)
    with pytest.raises(ChangedError, match=rf"^{re.escape(path)}: another "):
        undo(tree, journal)
    assert everything(tree.root) == before


class LateTree(FileTree):
    """A tree in which another program writes a file immediately before zkdns writes `trigger`."""

    def __init__(self, tree: FileTree, trigger: str, path: str) -> None:
        super().__init__(tree.root)
        self.trigger, self.path = trigger, path

    def change(self, path: str, before: FileState, after: FileState) -> None:
        if path == self.trigger:
            self.trigger = ""
            write_as_other_program(self, self.path)
        super().change(path, before, after)


@pytest.mark.parametrize("path", WRITTEN[:-1])
def test_what_is_written_between_two_writes_stays(tree: FileTree, path: str) -> None:
    """All other files get their old content back."""
    before = everything(tree.root)
    late = LateTree(tree, path, path)
    with pytest.raises(ChangedError, match=rf"^{re.escape(path)}: another program has changed it"):
        apply(late, read_journal(late), changes_of(late))
    after = everything(tree.root)
    assert tree.text(path) == "theirs\n"
    new = path.lstrip("/")
    directories = {str(parent) for parent in PurePosixPath(new).parents}
    assert {name: value for name, value in after.items() if name != new and name not in directories} == {
        name: value for name, value in before.items() if name != new and name not in directories
    }


def test_undo_works_after_a_crash_between_two_writes(tree: FileTree) -> None:
    """The journal is written first, so a file in it may be unchanged."""
    before = everything(tree.root)
    apply(tree, read_journal(tree), changes_of(tree))
    tree.at("/etc/new/deep/zkdns.conf").unlink()
    undo(tree, read_journal(tree))
    assert everything(tree.root) == before


def test_the_original_tree_has_the_files_before_the_changes(tree: FileTree) -> None:
    apply(tree, read_journal(tree), changes_of(tree))
    original = OriginalTree(tree, read_journal(tree))
    assert original.text("/etc/resolv.conf") == "nameserver 10.0.0.53"
    assert original.state("/etc/link") == Link("./somewhere//else")
    assert not original.exists("/etc/new/deep/zkdns.conf")


def test_a_malformed_journal_is_an_error(tree: FileTree) -> None:
    make_tree(tree.root, {JOURNAL_FILE: "{"})
    with pytest.raises(HostError, match=r"setup\.json: is malformed .* delete it"):
        read_journal(tree)


@pytest.mark.parametrize("target", ["{outside}", "../../../../../..{outside}"])
def test_links_to_directories_stay_inside_an_image(tmp_path: Path, target: str) -> None:
    """For example `/etc -> /config/etc`, where /config is in the image."""
    outside = tmp_path / "outside"
    files = {"resolv.conf": "-> ../run/resolv.conf", "other.conf": "theirs"}
    make_tree(outside, files)
    before = everything(outside)
    tree = make_tree(
        tmp_path / "image",
        {
            "/etc": f"-> {target.format(outside=outside)}",
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
    apply(tree, read_journal(tree), changes)
    assert everything(outside) == before
    assert (tree.root / str(outside)[1:] / "new" / "zkdns.conf").read_text() == "ours"
    undo(tree, read_journal(tree))
    assert everything(tree.root) == old
