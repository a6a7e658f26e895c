"""Change several files of a machine as one transaction, and undo that later.

    before ──apply──▶ after ──undo──▶ before

The journal file holds the state before the changes. It is written first, so undo works after a crash at any
moment. A file that another program has changed since the plan was made, or since it was written, is never
written: the states are compared before the first write, and again immediately before each one.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from zkdns.host.files import Absent, ChangedError, File, FileState, FileTree, HostError

JOURNAL_FILE = "/var/lib/zkdns-setup.json"
"""The journal. Root trusts its content, so it is in a directory in which no other user can write."""

_MODE = 0o600  # saved configuration files may hold secrets
_COMMAND_SECONDS = 60


class Change(msgspec.Struct, frozen=True):
    """A file with its states before and after a change."""

    path: str
    before: FileState
    after: FileState


class ChangeJournal(msgspec.Struct, frozen=True):
    """All changes that are in effect on this machine."""

    changes: tuple[Change, ...] = ()
    directories: tuple[str, ...] = ()
    """The directories that were created for the changes, the uppermost first."""
    commands: tuple[tuple[str, ...], ...] = ()
    """The commands to run after an undo, so that programs read the files again."""


def read_journal(tree: FileTree) -> ChangeJournal:
    """Read the journal; it is empty if there are no changes in effect.

    Raises:
        HostError: it cannot be read.
    """
    state = tree.state(JOURNAL_FILE)
    if not isinstance(state, File):
        return ChangeJournal()
    try:
        return msgspec.json.decode(state.content, type=ChangeJournal)
    except (msgspec.DecodeError, ValueError) as error:
        raise HostError(
            f"{JOURNAL_FILE}: is malformed ({error}), so the state before zkdns setup is unknown; "
            "repair it, or delete it to keep all files as they are now"
        ) from None


class OriginalTree(FileTree):
    """The files of a machine as they were before the changes in a journal.

    Raises:
        ChangedError: another program has changed one of the files since.
    """

    def __init__(self, tree: FileTree, journal: ChangeJournal) -> None:
        super().__init__(tree.root)
        self._current = tree
        self._original = {change.path: change.before for change in journal.changes}
        for change in journal.changes:
            if tree.state(change.path) not in (change.before, change.after):
                raise ChangedError(
                    f"{change.path}: another program has changed it since zkdns setup wrote it, so it stays "
                    f"unchanged; restore what zkdns wrote, or delete {JOURNAL_FILE} to keep all files as "
                    "they are now (the original files are lost then)"
                )

    def state(self, path: str) -> FileState:
        """The original state of a path."""
        return self._original[path] if path in self._original else self._current.state(path)

    def exists(self, path: str) -> bool:
        """Whether the path existed originally."""
        if path in self._original:
            return not isinstance(self._original[path], Absent)
        return super().exists(path)


def apply(
    tree: FileTree,
    journal: ChangeJournal,
    changes: Sequence[Change],
    commands: Sequence[tuple[str, ...]] = (),
) -> tuple[Change, ...]:
    """Make these changes, and undo all others in the journal.

    Args:
        tree: the machine's files.
        journal: the changes in effect.
        changes: the wanted changes, relative to the original files.
        commands: the commands to keep for an undo.

    Returns:
        The changes relative to the current files; empty if the files already were as wanted.

    Raises:
        ChangedError: a file is no longer as it was when `changes` were made. Nothing was written.
        HostError: one of the changes failed, and all files are as they were before the call.
    """
    _check_unchanged(tree, journal, changes)
    wanted = ChangeJournal(
        tuple(change for change in changes if change.before != change.after),
        _created_directories(tree, journal, changes),
        tuple(commands),
    )
    after = {change.path: change.after for change in wanted.changes}
    undone = tuple(change for change in journal.changes if change.path not in after)
    steps = _differences(tree, {change.path: change.before for change in undone} | after)
    if not steps and wanted == journal:
        return ()
    # Until all files are written, the journal on disk holds the old changes and the new ones.
    _put_all(tree, steps, journal, msgspec.structs.replace(wanted, changes=wanted.changes + undone))
    if wanted.changes:
        _write_journal(tree, wanted)
    else:
        _remove_journal(tree, wanted)
    return steps


def undo(tree: FileTree, journal: ChangeJournal) -> tuple[Change, ...]:
    """Undo all changes in the journal.

    Returns:
        The changes relative to the current files.

    Raises:
        ChangedError: a file is no longer as it was when the journal was read. Nothing was written.
        HostError: undo is not possible, and all files are as they were before the call.
    """
    _check_unchanged(tree, journal, ())
    steps = _differences(tree, {change.path: change.before for change in journal.changes})
    _put_all(tree, steps, journal, journal)
    _remove_journal(tree, journal)
    return steps


def _check_unchanged(tree: FileTree, journal: ChangeJournal, changes: Iterable[Change]) -> None:
    """Check that the journal and the files are as they were when these changes were made.

    Time may have passed since, in which the user read the changes and confirmed them.

    Raises:
        ChangedError: another program has changed one of them.
    """
    if read_journal(tree) != journal:
        raise ChangedError(
            f"{JOURNAL_FILE}: another zkdns setup has changed it meanwhile, so nothing was written; run the "
            "command again"
        )
    OriginalTree(tree, journal)  # it checks the files in the journal
    known = {change.path for change in journal.changes}
    for change in changes:
        if change.path not in known and tree.state(change.path) != change.before:
            raise ChangedError(
                f"{change.path}: another program has changed it since zkdns setup read it, so nothing was "
                "written; run the command again to see the changes for its new content"
            )


def _created_directories(
    tree: FileTree, journal: ChangeJournal, changes: Sequence[Change]
) -> tuple[str, ...]:
    paths = [change.path for change in changes if change.before != change.after]
    missing = [directory for path in [*paths, JOURNAL_FILE] for directory in tree.missing_directories(path)]
    return tuple(dict.fromkeys([*journal.directories, *missing]))


def _differences(tree: FileTree, wanted: Mapping[str, FileState]) -> tuple[Change, ...]:
    changes = (Change(path, tree.state(path), state) for path, state in wanted.items())
    return tuple(change for change in changes if change.before != change.after)


def _put_all(
    tree: FileTree, steps: Iterable[Change], before: ChangeJournal, meanwhile: ChangeJournal
) -> None:
    """Make all changes; if one fails, undo those that were made."""
    _write_journal(tree, meanwhile)
    done: list[Change] = []
    step: Change | None = None
    try:
        for step in steps:
            tree.change(step.path, step.before, step.after)
            done.append(step)
    except HostError as error:
        try:
            for each in reversed(done):
                tree.change(each.path, each.after, each.before)
        except HostError as second:
            raise HostError(f"{error}; the changes before it cannot be undone: {second}") from None
        if step is not None and not isinstance(error, ChangedError) and tree.state(step.path) != step.before:
            raise HostError(f"{error}; its previous content is in {JOURNAL_FILE}") from None
        if before.changes:
            _write_journal(tree, before)
        else:
            _remove_journal(tree, meanwhile)
        raise


def _write_journal(tree: FileTree, journal: ChangeJournal) -> None:
    tree.replace(JOURNAL_FILE, File(msgspec.json.format(msgspec.json.encode(journal)) + b"\n", _MODE))


def _remove_journal(tree: FileTree, journal: ChangeJournal) -> None:
    """Remove the journal and the created directories."""
    tree.change(JOURNAL_FILE, tree.state(JOURNAL_FILE), Absent())
    tree.remove_empty(list(journal.directories))


# -- commands ---------------------------------------------------------------------------------------------


def run_commands(commands: Iterable[tuple[str, ...]]) -> list[str]:
    """Run the commands that make programs read the files again; return an error text for each failure."""
    return [error for command in commands if (error := _run(command))]


def _run(command: tuple[str, ...]) -> str:
    shown = " ".join(command)
    program = shutil.which(command[0])
    if program is None:
        return f"{shown}: {command[0]} is not installed; make the program read its files again yourself"
    try:
        ended = subprocess.run(  # noqa: S603 - the commands come from zkdns itself
            [program, *command[1:]],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_COMMAND_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"{shown}: did not end within {_COMMAND_SECONDS} s"
    except OSError as error:
        return f"{shown}: {error.strerror}"
    if ended.returncode:
        output = " ".join((ended.stderr or ended.stdout).split())
        return f"{shown}: {output or f'exit status {ended.returncode}'}"
    return ""
