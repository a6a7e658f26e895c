"""`zkdns setup` with a system image: output, confirmation, changes and undo."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli import Terminal, run
from tests.host.trees import everything, make_tree
from tests.support.forked_command import Ended
from tests.support.network import bind_mount_prefix
from tests.support.waiting import eventually
from zkdns.cli.statuses import ExitStatus

pytestmark = pytest.mark.processes

OLD = "nameserver 10.0.0.53\nsearch corp.example\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_tree(tmp_path / "root", {"/etc/resolv.conf": OLD})
    return tmp_path / "root"


def setup(root: Path, *arguments: str) -> Ended:
    return run("setup", "--root", str(root), *arguments, environment={"ZKDNS_UPSTREAM": "auto"})


def test_without_apply_it_shows_a_diff_and_writes_nothing(root: Path) -> None:
    before = everything(root)
    ended = setup(root, "--search", "Staging.Discovery.")
    assert ended.status == 0, ended.errors
    assert "name resolution is managed by resolv.conf" in ended.output
    for line in ("+nameserver 127.0.0.1", "-search corp.example", "+search staging.discovery corp.example"):
        assert f"\n{line}\n" in ended.output
    assert "run zkdns setup --apply" in ended.output
    assert everything(root) == before


def test_apply_writes_once_and_undo_restores(root: Path) -> None:
    before = everything(root)
    first = setup(root, "--apply", "--yes")
    assert (first.status, "written;" in first.output) == (0, True)
    once = everything(root)
    second = setup(root, "--apply")  # nothing to write, so no confirmation is needed
    assert (second.status, "the files are already up to date" in second.output) == (0, True)
    assert everything(root) == once
    assert setup(root, "--undo").status == 2
    assert everything(root) == once
    undone = setup(root, "--undo", "--yes")
    assert (undone.status, "restored" in undone.output) == (0, True)
    assert everything(root) == before
    assert "nothing to undo" in setup(root, "--undo").output


def test_without_a_terminal_yes_is_required(root: Path) -> None:
    before = everything(root)
    ended = setup(root, "--apply")
    assert (ended.status, "--yes: is missing" in ended.errors) == (2, True)
    assert everything(root) == before


def test_in_a_terminal_it_asks_for_confirmation(root: Path) -> None:
    before = everything(root)
    arguments = ("setup", "--root", str(root), "--apply", "--upstream", "auto")
    for answer, status in ((b"n\n", 5), (b"y\n", 0)):
        assert everything(root) == before
        with Terminal(*arguments) as terminal:
            eventually(lambda terminal=terminal: "Write these changes? [y/N]" in terminal.screen)  # type: ignore[misc]
            assert "\x1b[32m+nameserver 127.0.0.1" in terminal.written
            terminal.type(answer)
            assert terminal.wait() == status
    assert everything(root) != before


@pytest.mark.parametrize("is_undo", [False, True], ids=["apply", "undo"])
def test_a_file_that_changes_during_the_question_stays_unchanged(root: Path, is_undo: bool) -> None:
    if is_undo:
        setup(root, "--apply", "--yes")
    flag, question = (
        ("--undo", "Restore these files? [y/N]") if is_undo else ("--apply", "Write these changes? [y/N]")
    )
    with Terminal("setup", "--root", str(root), flag, "--upstream", "auto") as terminal:
        eventually(lambda: question in terminal.screen)
        (root / "etc" / "resolv.conf").write_text("nameserver 10.0.0.99\n")
        changed = everything(root)
        terminal.type(b"y\n")
        assert terminal.wait() == 5
        assert "/etc/resolv.conf: another program has changed it" in terminal.screen
    assert everything(root) == changed


def test_a_mount_point_is_written_in_place(root: Path) -> None:
    """As /etc/resolv.conf in containers: it cannot be replaced."""
    place = root / "etc" / "resolv.conf"
    source = root.parent / "of-the-container"
    source.write_text(OLD)
    mounted = ["unshare", "-m", "sh", "-c", f'mount --bind {source} {place} && exec "$@"', "sh"]
    probe = subprocess.run([*mounted, "true"], check=False, capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"no mount can be made: {probe.stderr.strip()}")
    inode = source.stat().st_ino
    ended = _run_in(mounted, root)
    assert ended.returncode == 0, ended.stderr
    assert "nameserver 127.0.0.1\n" in source.read_text()
    assert source.stat().st_ino == inode
    assert place.read_text() == OLD


def test_without_output_nothing_is_written(root: Path) -> None:
    before = everything(root)
    command = [sys.executable, "-m", "zkdns", "setup", "--root", str(root), "--apply", "--yes"]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, timeout=30)
    assert ended.returncode == ExitStatus.NOT_WRITTEN
    assert everything(root) == before


def test_json_holds_the_whole_plan(root: Path) -> None:
    report: dict[str, Any] = json.loads(setup(root, "--json").output)
    assert report["manager"] == "resolv.conf"
    assert [change["path"] for change in report["changes"]] == ["/etc/resolv.conf"]
    assert "+nameserver 127.0.0.1\n" in report["changes"][0]["diff"]
    assert (report["obstacles"], report["commands"]) == ([], [])
    assert setup(root, "--json", "--apply").status == 2
    applied = json.loads(setup(root, "--json", "--apply", "--yes").output)
    assert "written" in applied["messages"][0]


def test_odd_characters_of_a_file_are_kept_and_shown_escaped(root: Path) -> None:
    place = root / "etc" / "resolv.conf"
    odd = b"# a\xe2\x80\xa8nameserver 10.6.6.6\x0b\x0c\x1b[2J \xff\r\nnameserver 10.0.0.53\n"
    place.write_bytes(odd)
    ended = setup(root, "--apply", "--yes")
    assert ended.status == 0, ended.errors
    assert f"{odd.decode(errors='surrogateescape')}".encode(errors="surrogateescape") in place.read_bytes()
    assert all(line.isprintable() for line in ended.output.split("\n"))
    assert not any(line.startswith("nameserver 10.6.6.6") for line in ended.output.split("\n"))
    assert setup(root, "--undo", "--yes").status == 0
    assert place.read_bytes() == odd


def test_with_an_obstacle_nothing_is_written(root: Path) -> None:
    before = everything(root)
    ended = setup(root, "--listen", "127.0.0.1:5300", "--apply", "--yes")
    assert ended.status == 5
    assert "setup is not possible: /etc/resolv.conf has no syntax for a port" in ended.output
    assert everything(root) == before


def test_a_file_that_another_program_changed_stays_unchanged(root: Path) -> None:
    setup(root, "--apply", "--yes")
    (root / "etc" / "resolv.conf").write_text("nameserver 10.0.0.99\n")
    changed = everything(root)
    for arguments in (["--undo", "--yes"], ["--apply", "--yes"], []):
        ended = setup(root, *arguments)
        assert ended.status == 5
        assert "/etc/resolv.conf: another program has changed it" in ended.errors
        assert everything(root) == changed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--apply", "--undo"], "--undo: cannot be combined with --apply"),
        (["--search", "a..b"], "--search: 'a..b'"),
        (["--listen", "here"], "--listen: 'here'"),
    ],
)
def test_usage_errors(root: Path, arguments: list[str], sentence: str) -> None:
    ended = setup(root, *arguments)
    assert ended.status == 2
    assert sentence in ended.errors
    assert setup(root / "nowhere").status == 2


def test_the_configuration_of_an_image_is_read_and_written_in_the_image(tmp_path: Path) -> None:
    """Paths in it are paths of the image, and are not checked."""
    text = 'listen = ["127.0.0.1:5300"]\n[zookeeper]\ncredentials = "/nowhere/else.toml"\n'
    root = tmp_path / "root"
    files = {
        "/etc/resolv.conf": "nameserver 127.0.0.53\n",
        "/run/systemd/resolve/resolv.conf": "nameserver 192.168.1.1\n",
        "/etc/systemd/resolved.conf": "[Resolve]\nDNS=9.9.9.9\n",
        "/etc/zkdns.toml": "-> /usr/zkdns.toml",
        "/usr/zkdns.toml": text,
    }
    make_tree(root, files)
    ended = setup(root, "--config", "/etc/zkdns.toml", "--apply", "--yes")
    assert ended.status == 0, ended.errors
    drop_in = (root / "etc" / "systemd" / "resolved.conf.d" / "zkdns.conf").read_text()
    assert "DNS=127.0.0.1:5300\n" in drop_in
    assert '[forward]\nupstreams = ["9.9.9.9:53"]\n' in (root / "usr" / "zkdns.toml").read_text()
    ended = setup(root, "--config", "/etc/none.toml")
    assert (ended.status, f"{root}/etc/none.toml: cannot be read" in ended.errors) == (2, True)


def test_a_read_only_file_system_is_an_error_and_nothing_changes(root: Path) -> None:
    before = everything(root)
    etc = root / "etc"
    read_only = [
        *bind_mount_prefix({str(etc): etc}),
        "sh",
        "-c",
        f'mount -o remount,bind,ro {etc} && exec "$@"',
        "sh",
    ]
    probe = subprocess.run([*read_only, "true"], check=False, capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"no read-only mount can be made: {probe.stderr.strip()}")
    ended = _run_in(read_only, root)
    assert ended.returncode == 5
    assert "/etc/resolv.conf: cannot be written: Read-only file system; mount" in ended.stderr
    assert everything(root) == before


def test_an_immutable_file_is_an_error(root: Path) -> None:
    place = root / "etc" / "resolv.conf"
    chattr = shutil.which("chattr")
    if chattr is None or subprocess.run([chattr, "+i", place], check=False, capture_output=True).returncode:
        pytest.skip("files cannot be made immutable here")
    try:
        ended = setup(root, "--apply", "--yes")
    finally:
        subprocess.run([chattr, "-i", place], check=True)
    assert ended.status == 5
    assert "chattr -i /etc/resolv.conf" in ended.errors
    assert place.read_text() == OLD


def _run_in(prefix: list[str], root: Path) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-m", "zkdns", "setup", "--root", str(root), "--apply", "--yes"]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
