"""Files of a machine, or of a system image in a directory.

Files are replaced by a rename, so that each program reads either the old or the new content. The new file
gets the owner and the extended attributes (such as the SELinux label) of the old one. A file that cannot be
replaced is written in place: one with several hard links, or a mount point, such as /etc/resolv.conf in
containers.

A change states what it replaces. Immediately before writing, the file is compared with that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import msgspec

from zkdns.errors import ZkdnsError

MAX_FILE = 1 << 20  # bytes; resolver configuration is far shorter
_MAX_LINKS = 40  # the limit of Linux (path_resolution(7))
_NEW_MODE = 0o644
# Errors of a replacement after which writing in place may succeed: a mount point, a directory that this user
# may not write, an attribute that cannot be set.
_NOT_REPLACEABLE = frozenset(
    {errno.EBUSY, errno.EXDEV, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTSUP, errno.EINVAL}
)


class HostError(ZkdnsError):
    """A file of this machine cannot be read or changed; the text says which, why, and how to fix it."""


class ChangedError(HostError):
    """Another program has changed a file since it was read, so it stays unchanged."""


class Absent(msgspec.Struct, frozen=True, tag="absent"):
    """No file."""


class Link(msgspec.Struct, frozen=True, tag="link"):
    """A symbolic link."""

    target: str


class File(msgspec.Struct, frozen=True, tag="file"):
    """A regular file."""

    content: bytes
    mode: int = _NEW_MODE
    """Permissions."""


FileState: TypeAlias = Absent | Link | File
"""The state of a path."""


class FileTree:
    """The files below a root directory. All paths are absolute, as if that directory were `/`.

    Args:
        root: the directory.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    @property
    def is_this_machine(self) -> bool:
        """Whether this is the file system of the running system, so that commands can be run for it."""
        return self.root.resolve() == Path("/")

    def at(self, path: str) -> Path:
        """Return the real place of a file. Links above it are followed, the file itself may be a link.

        Raises:
            HostError: there is a loop of links above it.
        """
        parent, name = os.path.split(path)
        return self._directory(parent) / name

    def _directory(self, path: str) -> Path:
        """Return the real place of a directory, which may be missing.

        Links are followed as if `root` were the root: an absolute link stays below it.
        """
        found, links = PurePosixPath(), 0
        remaining = [*reversed(PurePosixPath(path).parts)]
        while remaining:
            part = remaining.pop()
            if part == "/":
                found = PurePosixPath()
            elif part == "..":
                found = found.parent
            elif (target := _link_target(self.root / found / part)) is None:
                found /= part
            else:
                remaining += reversed(PurePosixPath(target).parts)
                links += 1
            if links > _MAX_LINKS:
                raise HostError(f"{path}: a symbolic link in this path is part of a loop")
        return self.root / found

    def state(self, path: str) -> FileState:
        """Read the state of a path; a link is not followed.

        Raises:
            HostError: it cannot be read, or is neither a regular file nor a link.
        """
        place = self.at(path)
        try:
            status = place.lstat()
            if stat.S_ISLNK(status.st_mode):
                return Link(os.readlink(place))  # noqa: PTH115 - a Path would normalise the target
            if not stat.S_ISREG(status.st_mode):
                raise HostError(f"{path}: is not a regular file, so it stays unchanged")
            with place.open("rb") as stream:
                content = stream.read(MAX_FILE + 1)
        except (FileNotFoundError, NotADirectoryError):
            return Absent()
        except OSError as error:
            raise HostError(f"{path}: cannot be read: {_explain(path, error)}") from None
        if len(content) > MAX_FILE:
            raise HostError(f"{path}: is longer than {MAX_FILE} bytes, so it stays unchanged")
        return File(content, stat.S_IMODE(status.st_mode))

    def real(self, path: str) -> str:
        """Follow the links at the end of a path, and return the path of the file.

        Raises:
            HostError: there is a loop of links.
        """
        for _ in range(_MAX_LINKS):
            state = self.state(path)
            if not isinstance(state, Link):
                return path
            parent = self._directory(str(PurePosixPath(path).parent)).relative_to(self.root)
            path = os.path.normpath(PurePosixPath("/") / parent / state.target)
        raise HostError(f"{path}: is a symbolic link in a loop")

    def text(self, path: str) -> str | None:
        """Read a file for parsing, following links; None if it is missing."""
        state = self.state(self.real(path))
        return state.content.decode(errors="replace") if isinstance(state, File) else None

    def source(self, path: str) -> str:
        """Read a file for editing, following links; empty if it is missing. Invalid UTF-8 is kept."""
        state = self.state(self.real(path))
        return state.content.decode(errors="surrogateescape") if isinstance(state, File) else ""

    def names(self, directory: str, suffix: str = "") -> list[str]:
        """List the sorted names in a directory; empty if there is no such directory."""
        try:
            return sorted(
                entry.name for entry in self._directory(directory).iterdir() if entry.name.endswith(suffix)
            )
        except OSError:
            return []

    def exists(self, path: str) -> bool:
        """Whether the path exists, if only as a broken link."""
        return os.path.lexists(self.at(path))

    def missing_directories(self, path: str) -> list[str]:
        """Return the missing directories above a path, the uppermost first."""
        parents = list(PurePosixPath(path).parents)
        return [str(parent) for parent in reversed(parents) if not self._directory(str(parent)).is_dir()]

    def change(self, path: str, before: FileState, after: FileState) -> None:
        """Bring a path from one state to another one, and create missing directories.

        Args:
            path: the path.
            before: the state that the change was made for. It is compared immediately before writing.
            after: the new state.

        Raises:
            ChangedError: another program has changed it. It stays unchanged.
            HostError: it cannot be written.
        """
        place = self.at(path)

        def check() -> None:
            if self.state(path) != before:
                raise ChangedError(
                    f"{path}: another program has changed it since zkdns setup read it, so it stays "
                    "unchanged; run the command again to see the changes for its new content"
                )

        try:
            if isinstance(after, Absent):
                check()
                place.unlink(missing_ok=True)
            elif isinstance(after, File) and isinstance(before, File):
                _change_file(place, before, after, check)
            else:
                _replace(place, after, check)
        except OSError as error:
            raise HostError(f"{path}: cannot be written: {_explain(path, error)}") from None

    def replace(self, path: str, state: File) -> None:
        """Replace a file atomically: after a crash, either the old or the new one is there.

        Raises:
            HostError: it cannot be written.
        """
        try:
            _replace(self.at(path), state)
        except OSError as error:
            raise HostError(f"{path}: cannot be written: {_explain(path, error)}") from None

    def remove_empty(self, directories: list[str]) -> None:
        """Remove the empty ones of these directories, the last one first."""
        for directory in reversed(directories):
            with contextlib.suppress(OSError):
                self._directory(directory).rmdir()


def _link_target(place: Path) -> str | None:
    """The target of a link; None if it is not a link, or is unreadable."""
    try:
        return os.readlink(place)  # noqa: PTH115 - a Path would normalise the target
    except OSError:
        return None


def _change_file(place: Path, before: File, after: File, check: Callable[[], None]) -> None:
    """Replace a file. If that is not possible, write it in place."""
    if place.stat().st_nlink == 1:
        try:
            _replace(place, after, check, is_existing=True)
        except OSError as error:
            if error.errno not in _NOT_REPLACEABLE:
                raise
        else:
            return
    check()
    try:
        _overwrite(place, after)
    except OSError:
        with contextlib.suppress(OSError):
            _overwrite(place, before)
        raise


def _overwrite(place: Path, state: File) -> None:
    """Write a file in place, without a moment in which it is empty."""
    number = os.open(place, os.O_WRONLY)
    try:
        content = memoryview(state.content)
        at = 0
        while at < len(content):
            at += os.pwrite(number, content[at:], at)
        os.ftruncate(number, len(content))
        if stat.S_IMODE(os.fstat(number).st_mode) != state.mode:
            os.fchmod(number, state.mode)
        os.fsync(number)
    finally:
        os.close(number)


def _replace(
    place: Path, state: Link | File, check: Callable[[], None] = lambda: None, *, is_existing: bool = False
) -> None:
    """Create the file under a temporary name in the same directory, then rename it.

    Args:
        place: the file.
        state: its new state.
        check: called immediately before the rename; raises an error if the file must stay.
        is_existing: take over the owner and the extended attributes of the file.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{secrets.token_hex(4)}.new")
    try:
        if isinstance(state, Link):
            temporary.symlink_to(state.target)
        else:
            with temporary.open("xb") as stream:
                stream.write(state.content)
                if is_existing:
                    _take_over_attributes(place, stream.fileno())
                os.fchmod(stream.fileno(), state.mode)  # last, because a new owner clears bits of the mode
                stream.flush()
                os.fsync(stream.fileno())
        check()
        temporary.replace(place)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _take_over_attributes(place: Path, number: int) -> None:
    """Give an open file the owner, the group and the extended attributes of another file."""
    status, own = place.stat(), os.fstat(number)
    if (status.st_uid, status.st_gid) != (own.st_uid, own.st_gid):
        os.fchown(number, status.st_uid, status.st_gid)
    try:
        names = os.listxattr(place)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return
    for name in names:
        value = os.getxattr(place, name)
        if name not in os.listxattr(number) or os.getxattr(number, name) != value:
            os.setxattr(number, name, value)


def _explain(path: str, error: OSError) -> str:
    """The reason, and how to fix it."""
    match error.errno:
        case errno.EACCES:
            fix = "; run this as root (sudo)"
        case errno.EPERM:
            fix = f"; if lsattr {path} shows an i, chattr -i {path} allows changes"
        case errno.EROFS:
            fix = "; mount the file system writable, or change it in the system image"
        case errno.ENOSPC | errno.EDQUOT:
            fix = "; free some disk space"
        case errno.EBUSY:
            fix = "; it is a mount point, so change it where the container is created"
        case _:
            fix = ""
    return f"{error.strerror}{fix}"
