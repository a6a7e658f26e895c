"""A machine's files, as they lie below its root or below another directory that stands for it.

Files that exist are written in place: that keeps owner, mode, label and hard links, and is the only way where
a file is a mount of its own, as /etc/resolv.conf is in containers. New ones appear with all that they hold.
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

MAX_FILE = 1 << 20  # bytes; files that say who resolves names are shorter by far
_MOST_LINKS = 40  # as Linux has it (path_resolution(7))
_NEW_MODE = 0o644


class MachineError(ZkdnsError):
    """Something on this machine cannot be read or changed; the text says what, and what would help."""


class Absent(msgspec.Struct, frozen=True, tag="absent"):
    """There is no file."""


class Link(msgspec.Struct, frozen=True, tag="link"):
    """A symbolic link."""

    target: str


class File(msgspec.Struct, frozen=True, tag="file"):
    """A regular file."""

    content: bytes
    mode: int = _NEW_MODE
    """Permissions."""


State: TypeAlias = Absent | Link | File
"""What is at a path."""


class Tree:
    """The files below a directory, by the paths that they have when that is the root.

    Args:
        root: the directory.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    @property
    def is_this_machine(self) -> bool:
        """Whether it is the running system's own tree, so that its programs may be asked too."""
        return self.root.resolve() == Path("/")

    def at(self, path: str) -> Path:
        """Where that file really lies, which may be a link.

        Raises:
            MachineError: links to a directory above it go in a circle.
        """
        above, name = os.path.split(path)
        return self._directory(above) / name

    def _directory(self, path: str) -> Path:
        """Where a directory really lies, and a part of it that is missing would.

        Links are followed as by whoever has our root as its own: an absolute one leads to a place below it.
        """
        found, links = PurePosixPath(), 0
        left = [*reversed(PurePosixPath(path).parts)]
        while left:
            part = left.pop()
            if part == "/":
                found = PurePosixPath()
            elif part == "..":
                found = found.parent
            elif (target := _target(self.root / found / part)) is None:
                found /= part
            else:
                left += reversed(PurePosixPath(target).parts)
                links += 1
            if links > _MOST_LINKS:
                raise MachineError(f"{path}: has a link that leads in a circle")
        return self.root / found

    def state(self, path: str) -> State:
        """What is there.

        Raises:
            MachineError: it cannot be read, or is no file.
        """
        place = self.at(path)
        try:
            status = place.lstat()
            if stat.S_ISLNK(status.st_mode):
                return Link(os.readlink(place))  # noqa: PTH115 - a Path would spell it in another way
            if not stat.S_ISREG(status.st_mode):
                raise MachineError(f"{path}: is no regular file, so it is left alone")
            with place.open("rb") as stream:
                content = stream.read(MAX_FILE + 1)
        except (FileNotFoundError, NotADirectoryError):
            return Absent()
        except OSError as error:
            raise MachineError(f"{path}: cannot be read: {_explain(path, error)}") from None
        if len(content) > MAX_FILE:
            raise MachineError(f"{path}: is longer than {MAX_FILE} bytes, so it is left alone")
        return File(content, stat.S_IMODE(status.st_mode))

    def real(self, path: str) -> str:
        """The path that links at the end of this one lead to.

        Raises:
            MachineError: they go in a circle.
        """
        for _ in range(_MOST_LINKS):
            state = self.state(path)
            if not isinstance(state, Link):
                return path
            above = self._directory(str(PurePosixPath(path).parent)).relative_to(self.root)
            path = os.path.normpath(PurePosixPath("/") / above / state.target)
        raise MachineError(f"{path}: is a link that leads in a circle")

    def text(self, path: str) -> str | None:
        """What stands in the file that the path leads to; None where there is none."""
        state = self.state(self.real(path))
        return state.content.decode(errors="replace") if isinstance(state, File) else None

    def source(self, path: str) -> str:
        """The same to be edited: what is no UTF-8 becomes the same bytes again; empty where there is none."""
        state = self.state(self.real(path))
        return state.content.decode(errors="surrogateescape") if isinstance(state, File) else ""

    def names(self, directory: str, ending: str = "") -> list[str]:
        """The names in a directory, sorted; none where there is no such directory."""
        try:
            return sorted(
                one.name for one in self._directory(directory).iterdir() if one.name.endswith(ending)
            )
        except OSError:
            return []

    def exists(self, path: str) -> bool:
        """Whether anything is there."""
        return os.path.lexists(self.at(path))

    def missing_directories(self, path: str) -> list[str]:
        """The directories above the path that are not there, the uppermost first."""
        parents = list(PurePosixPath(path).parents)
        return [str(parent) for parent in reversed(parents) if not self._directory(str(parent)).is_dir()]

    def put(self, path: str, state: State) -> None:
        """Let this be there, whatever was; missing directories are made.

        Raises:
            MachineError: it cannot be.
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
            raise MachineError(f"{path}: cannot be written: {_explain(path, error)}") from None

    def replace(self, path: str, state: File) -> None:
        """Put a new file there at one go, so that either the old or the new one is there whatever happens.

        Raises:
            MachineError: it cannot be.
        """
        try:
            _replace(self.at(path), state)
        except OSError as error:
            raise MachineError(f"{path}: cannot be written: {_explain(path, error)}") from None

    def remove_empty(self, directories: list[str]) -> None:
        """Remove those of these directories that are empty, the last first."""
        for directory in reversed(directories):
            with contextlib.suppress(OSError):
                self._directory(directory).rmdir()


def _target(place: Path) -> str | None:
    """Where a link leads; None: it is none, or is not to be seen."""
    try:
        return os.readlink(place)  # noqa: PTH115 - a Path would spell it in another way
    except OSError:
        return None


def _overwrite(place: Path, state: File) -> None:
    """Write over what a file holds, so that it is never seen empty."""
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
    """Make it beside its place, and put it there at one go; missing directories are made."""
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f".{place.name}.{secrets.token_hex(4)}.new")
    try:
        if isinstance(state, Link):
            beside.symlink_to(state.target)
        else:
            with beside.open("xb") as stream:
                stream.write(state.content)
                os.fchmod(stream.fileno(), state.mode)
                stream.flush()
                os.fsync(stream.fileno())
        beside.replace(place)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def _explain(path: str, error: OSError) -> str:
    """Why it cannot be, and what would help."""
    match error.errno:
        case errno.EACCES:
            cure = "; do it as root (sudo)"
        case errno.EPERM:
            cure = f"; where lsattr {path} shows an i, chattr -i {path} lets it be changed"
        case errno.EROFS:
            cure = "; mount the file system writable, or change it where the system's image is made"
        case errno.ENOSPC | errno.EDQUOT:
            cure = "; make room there"
        case errno.EBUSY:
            cure = "; it is a mount of its own, so change it where the container is made"
        case _:
            cure = ""
    return f"{error.strerror}{cure}"
