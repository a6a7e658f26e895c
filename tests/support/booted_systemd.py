"""A real systemd, booted as process 1 of separate namespaces. The machine outside is not changed.

It has the mounts, processes and control groups of a container. Its files are in memory, and its network is
the network namespace of the calling thread. All of its processes end with the test.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import pytest

from tests.support.process_guard import kill_guarded, start_guarded
from tests.support.waiting import eventually

_SYSTEMD = Path("/lib/systemd/systemd")
_TREE = Path(__file__).parent.parent.parent
_UNITS = "etc/systemd/system"
_SECONDS = 30.0

# All writes stay in memory: the root is an overlay over the root of the machine, without its other file
# systems, and the root of the machine is unmounted before systemd runs. Otherwise the boot would change the
# machine, for example by emptying /tmp. $1 is a directory of files to lay over the root; $2 is this source
# tree, which may be below /tmp.
_ENTER = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
cp -a "$1"/. /mnt/upper
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
cd /mnt/root
for directory in run tmp dev var/tmp root/.cache; do
    mkdir -p $directory
    mount -t tmpfs tmpfs $directory
done
for node in null zero full random urandom tty; do
    : > dev/$node
    mount --bind /dev/$node dev/$node
done
mkdir dev/pts dev/shm dev/mqueue dev/hugepages
ln -s pts/ptmx dev/ptmx
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
if ! [ -e ".$2" ]; then
    mkdir -p ".$2" /mnt/tree /mnt/tree_work
    mount -t overlay overlay -o "lowerdir=$2,upperdir=/mnt/tree,workdir=/mnt/tree_work" ".$2"
fi
mkdir -p mnt/machine
pivot_root . mnt/machine
umount -l /mnt/machine
[ "$(stat -f -c %T /)" = overlayfs ]
mount --make-rshared /  # as in containers; systemd needs it for credentials
shift 2
exec env -i PATH="$PATH" container=test setpriv --bounding-set \
    -sys_module,-sys_time,-sys_boot,-sys_rawio,-syslog,-mac_admin,-mac_override,-wake_alarm "$@"
"""
_SYSTEMD_COMMAND = (
    *("/lib/systemd/systemd", "--unit=test.target", "--log-target=console", "--show-status=no"),
)


class BootedSystemd:
    """A booted systemd, as a context manager. The test is skipped if it cannot be booted.

    Args:
        files: the text of files in it by absolute path; units go into `/etc/systemd/system`.
    """

    def __init__(self, files: Mapping[str, str]) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="zkdns-test-")
        self._log = Path(self._directory.name) / "log"
        root = Path(self._directory.name) / "root"
        target = {f"/{_UNITS}/test.target": "[Unit]\nDescription=Test\n"}
        for path, text in {**files, **target}.items():
            file = root / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(0o600 if path.endswith("zookeeper.toml") else 0o644)
        for unit in _enabled_units():
            mask = root / "etc/systemd/system" / unit
            if not mask.exists():
                mask.parent.mkdir(parents=True, exist_ok=True)
                mask.symlink_to("/dev/null")
        self._root = root
        self._group: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def __enter__(self) -> Self:
        self._group = _new_control_group()
        command = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(self._group)]
        command += ["unshare", "--fork", "--kill-child", "--pid", "--mount-proc", "--mount", "--cgroup"]
        command += ["--uts", "--ipc", "sh", "-c", _ENTER, "sh", str(self._root), str(_TREE)]
        command += _SYSTEMD_COMMAND
        with self._log.open("wb") as log:
            process = self._process = start_guarded(command, stdout=log, stderr=log)
        try:
            eventually(lambda: process.poll() is not None or self._is_up(), _SECONDS)
            if process.poll() is not None:
                pytest.skip(f"systemd cannot be booted here: {self.log.strip()[-300:]}")
        except BaseException as error:
            error.add_note(self.log)
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._group is not None:
            with contextlib.suppress(OSError):
                (self._group / "cgroup.kill").write_text("1")
        if self._process is not None:
            kill_guarded(self._process)
        if self._group is not None:
            group = self._group
            eventually(lambda: _removed(group))
        self._directory.cleanup()

    @property
    def log(self) -> str:
        """The output of systemd."""
        return self._log.read_text(errors="replace")

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command in it as root, and return its standard output."""
        ended = subprocess.run(
            ["nsenter", "--target", str(self._pid), "--mount", "--pid", "--", *command],
            check=False,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            env={"PATH": os.environ["PATH"]},
        )
        assert not check or ended.returncode == 0, (command, ended.stdout, ended.stderr, self.log)
        return ended.stdout

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def _is_up(self) -> bool:
        assert self._group is not None
        processes = (self._group / "init.scope/cgroup.procs").read_text().split()
        self._pid = next(int(pid) for pid in processes if _is_first_process(pid))
        return self.run("systemctl", "is-active", "test.target", check=False).strip() == "active"


def _is_first_process(pid: str) -> bool:
    """Whether this is process 1 of its namespace, and not one of the generators that it starts."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    (numbers,) = (line.split() for line in status if line.startswith("NSpid:"))
    return numbers[-1] == "1"


def _enabled_units() -> set[str]:
    """The units that are enabled on this machine.

    They are masked, so that only the units of the test start.
    """
    enabled = (
        path
        for place in ("/lib/systemd/system", "/etc/systemd/system")
        for path in Path(place).glob("*.wants/*")
    )
    return {path.name for path in enabled}


def _new_control_group() -> Path:
    """Create a control group for the test."""
    needed: Sequence[str] = ("unshare", "nsenter", "mountpoint")
    if not _SYSTEMD.exists() or not all(map(shutil.which, needed)) or os.geteuid() != 0:
        pytest.skip("needs systemd, util-linux, and root")
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    group = next(
        (Path(where) / f"zkdns-test-{os.getpid()}" for _, where, kind, *_ in mounts if kind == "cgroup2"),
        None,
    )
    if group is None:
        pytest.skip("needs control groups of version 2")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"cannot create a control group: {error.strerror}")
    return group


def _removed(group: Path) -> bool:
    """Remove an empty control group and its children; return whether it is gone."""
    for directory, _, _ in os.walk(group, topdown=False):
        Path(directory).rmdir()
    return not group.exists()
