"""Changing several files of a machine at one go, and taking all of it back.

    before ──apply──▶ after ──undo──▶ before

What was there before is kept in a file, which is written first: so whenever the power goes, the way back is
known. A file that somebody else has changed since is never touched again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from zkdns.machine.tree import Absent, File, MachineError, State, Tree

PLACE = "/var/lib/zkdns-setup.json"
"""Where it is kept what was there before; root believes it, so it lies where no other user may write."""

_MODE = 0o600  # a configuration that was kept may hold what is not for everybody


class Change(msgspec.Struct, frozen=True):
    """One file, and what becomes of it."""

    path: str
    before: State
    after: State
    is_shared: bool = False
    """Whether another program writes it too, again and again; then what that has written since stays."""


class Ledger(msgspec.Struct, frozen=True):
    """Everything that is changed on this machine now."""

    changes: tuple[Change, ...] = ()
    directories: tuple[str, ...] = ()
    """Those that were made for it, the uppermost first."""
    commands: tuple[tuple[str, ...], ...] = ()
    """What makes programs read the files again, once they are as before."""


def read_ledger(tree: Tree) -> Ledger:
    """What is changed now; an empty one where nothing is.

    Raises:
        MachineError: it cannot be read.
    """
    state = tree.state(PLACE)
    if not isinstance(state, File):
        return Ledger()
    try:
        return msgspec.json.decode(state.content, type=Ledger)
    except (msgspec.DecodeError, ValueError) as error:
        raise MachineError(
            f"{PLACE}: cannot be understood ({error}), so it is not known what was there before zkdns; "
            "put it right, or delete it to leave everything as it is now"
        ) from None


class Before(Tree):
    """A tree as it was before it was changed by what a ledger tells.

    Attributes:
        left: paths of shared files that their other program has written since.

    Raises:
        MachineError: somebody else has changed what we had changed.
    """

    def __init__(self, tree: Tree, ledger: Ledger) -> None:
        super().__init__(tree.root)
        self._now = tree
        self._before = {change.path: change.before for change in ledger.changes}
        self.left: list[str] = []
        for change in ledger.changes:
            state = tree.state(change.path)
            if state in (change.before, change.after):
                continue
            if change.is_shared:
                self._before[change.path] = state
                self.left.append(change.path)
            else:
                raise MachineError(
                    f"{change.path}: was changed by somebody else since zkdns setup wrote it, so it is left "
                    f"alone; put back what zkdns wrote, or delete {PLACE} to keep everything as it is now "
                    "(what was there before is lost then)"
                )

    def state(self, path: str) -> State:
        """What was there."""
        return self._before[path] if path in self._before else self._now.state(path)

    def exists(self, path: str) -> bool:
        """Whether anything was there."""
        return not isinstance(self._before[path], Absent) if path in self._before else super().exists(path)


def apply(
    tree: Tree, ledger: Ledger, changes: Sequence[Change], commands: Sequence[tuple[str, ...]] = ()
) -> tuple[Change, ...]:
    """Make these changes, and take back all others that the ledger tells of.

    Args:
        tree: the machine's files.
        ledger: of what is changed now.
        changes: from what was there before anything was changed.
        commands: to be kept for the way back.

    Returns:
        What was really changed, from what was there until now; nothing where all was so already.

    Raises:
        MachineError: one of them cannot be made; then none is.
    """
    wanted = Ledger(
        tuple(change for change in changes if change.before != change.after),
        _directories(tree, ledger, changes),
        tuple(commands),
    )
    new = {change.path: change.after for change in wanted.changes}
    taken_back = tuple(change for change in ledger.changes if change.path not in new)
    before = Before(tree, ledger)
    now = _difference(tree, {change.path: before.state(change.path) for change in taken_back} | new)
    if not now and wanted == ledger:
        return ()
    # While files change, whoever reads it finds all that is or was changed.
    _put_all(tree, now, ledger, msgspec.structs.replace(wanted, changes=wanted.changes + taken_back))
    if wanted.changes:
        _write_ledger(tree, wanted)
    else:
        _forget(tree, wanted)
    return now


def undo(tree: Tree, ledger: Ledger) -> tuple[Change, ...]:
    """Take everything back that the ledger tells of.

    Returns:
        What was really changed.

    Raises:
        MachineError: it cannot be taken back; then nothing is.
    """
    before = Before(tree, ledger)
    now = _difference(tree, {change.path: before.state(change.path) for change in ledger.changes})
    _put_all(tree, now, ledger, ledger)
    _forget(tree, ledger)
    return now


def _directories(tree: Tree, ledger: Ledger, changes: Sequence[Change]) -> tuple[str, ...]:
    paths = [change.path for change in changes if change.before != change.after]
    missing = [directory for path in [*paths, PLACE] for directory in tree.missing_directories(path)]
    return tuple(dict.fromkeys([*ledger.directories, *missing]))


def _difference(tree: Tree, wanted: Mapping[str, State]) -> tuple[Change, ...]:
    changes = (Change(path, tree.state(path), state) for path, state in wanted.items())
    return tuple(change for change in changes if change.before != change.after)


def _put_all(tree: Tree, changes: Iterable[Change], before: Ledger, meanwhile: Ledger) -> None:
    """Make all changes; where one cannot be made, take back those that were."""
    _write_ledger(tree, meanwhile)
    done: list[Change] = []
    try:
        for change in changes:
            done.append(change)  # it may be half-made when it fails
            tree.put(change.path, change.after)
    except MachineError as error:
        for change in reversed(done):
            try:
                tree.put(change.path, change.before)
            except MachineError as again:
                if tree.state(change.path) != change.before:
                    raise MachineError(
                        f"{error}; and taking back what was done failed too: {again}"
                    ) from None
        if before.changes:
            _write_ledger(tree, before)
        else:
            _forget(tree, meanwhile)
        raise


def _write_ledger(tree: Tree, ledger: Ledger) -> None:
    tree.replace(PLACE, File(msgspec.json.format(msgspec.json.encode(ledger)) + b"\n", _MODE))


def _forget(tree: Tree, ledger: Ledger) -> None:
    """Leave nothing of ours behind."""
    tree.put(PLACE, Absent())
    tree.remove_empty(list(ledger.directories))
