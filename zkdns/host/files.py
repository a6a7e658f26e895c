"""Files of a machine, or of a system image in a directory.

Existing files are written in place. That keeps owner, mode, label and hard links, and is the only way if a
file is a mount point, such as /etc/resolv.conf in containers. New files appear complete, by a rename.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import msgspec

from zkdns.errors import ZkdnsError

MAX_FILE = 1 << 20  # bytes; resolver configuration is far shorter
_MAX_LINKS = 40  # the limit of Linux (path_resolution(7))
_NEW_MODE = 0o644


class HostError(ZkdnsError):
    """A file of this machine cannot be read or changed; the text says which, why, and how to fix it."""


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

    def put(self, path: str, state: FileState) -> None:
        """Bring a path to a state, and create missing directories.

        Raises:
            HostError: it cannot be written.
        """
        place = self.at(path)
        try:
            if isinstance(state, Absent):
                place.unlink(missing_ok=True)
            elif isinstance(state, File) and place.is_file() and not place.is_symlink():
                _overwrite(place, state)
            else:
                _replace(place, state)
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


def _overwrite(place: Path, state: File) -> None:
    """Write a file in place, without a moment in which it is empty."""
    number = os.open(place, os.O_WRONLY)
    try:
        os.pwrite(number, state.content, 0)
        os.ftruncate(number, len(state.content))
        if stat.S_IMODE(os.fstat(number).st_mode) != state.mode:
            os.fchmod(number, state.mode)
        os.fsync(number)
    finally:
        os.close(number)


def _replace(place: Path, state: Link | File) -> None:
    """Create the file under a temporary name in the same directory, then rename it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{secrets.token_hex(4)}.new")
    try:
        if isinstance(state, Link):
            temporary.symlink_to(state.target)
        else:
            with temporary.open("xb") as stream:
                stream.write(state.content)
                os.fchmod(stream.fileno(), state.mode)
                stream.flush()
                os.fsync(stream.fileno())
        temporary.replace(place)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


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
