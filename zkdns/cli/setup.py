"""`zkdns setup`: let this machine use zkdns for its names, and take that back."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import click
import msgspec
from rich.console import Console
from rich.text import Text

from zkdns.cli.options import (
    FAILED,
    config_option,
    exit_failed,
    exit_mistaken,
    is_terminal,
    load_or_exit,
    options_of,
)
from zkdns.config import SETTINGS, Config
from zkdns.config.load import FILE_VARIABLE
from zkdns.errors import BadValueError
from zkdns.machine.commands import run_all
from zkdns.machine.ledger import PLACE, Before, Change, Ledger, apply, read_ledger, undo
from zkdns.machine.plan import Plan, Wish, make_plan, wish_of
from zkdns.machine.reaching import answering, try_name
from zkdns.machine.tree import File, Link, MachineError, State, Tree
from zkdns.names import parse_name, to_text

_STYLES = {"+": "green", "-": "red", "@": "cyan"}
_IS_SO = "all of this is so already"
_APPLY = "nothing is written yet: zkdns setup --apply does it"
_PATIENCE = 5.0  # seconds that resolvers may take to read their files
_CONFIGURED = tuple(row for row in SETTINGS if row.key in {"listen", "zone", "forward.upstreams", "control"})


class _Shown(msgspec.Struct, frozen=True):
    """What `--json` prints of a file."""

    path: str
    diff: str


class _Told(msgspec.Struct):
    """What `--json` prints."""

    keeper: str | None = None
    """Who is in charge of this machine's names; None: nobody was looked for."""
    reasons: tuple[str, ...] = ()
    changes: tuple[_Shown, ...] = ()
    """From how the files are now."""
    commands: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    """What was done, and what came of it."""


@click.command()
@click.option("--apply", "is_to_apply", is_flag=True, help="Write it, after asking.")
@click.option("--undo", "is_to_undo", is_flag=True, help="Restore what was there before.")
@click.option("--yes", "is_agreed", is_flag=True, help="Do not ask.")
@click.option(
    "--search", metavar="DOMAIN", multiple=True, help="Let programs find web.DOMAIN as web. Repeatable."
)
@click.option("--root", metavar="DIR", default="/", help="Work on a system's image that lies in DIR.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@config_option
@options_of(_CONFIGURED)
def setup(
    is_to_apply: bool,
    is_to_undo: bool,
    is_agreed: bool,
    search: tuple[str, ...],
    root: str,
    as_json: bool,
    config_file: str | None,
    **flags: object,
) -> None:
    """Let this machine use zkdns for its names.

    Without --apply it tells what it would change. What was there is kept, and --undo restores it. The exit
    status is 1 where it cannot be done, 2 for mistakes.
    """
    tree = Tree(Path(root))
    if not tree.root.is_dir():
        exit_mistaken([f"--root: {root} is no directory"])
    if is_to_apply and is_to_undo:
        exit_mistaken(["--undo: is the opposite of --apply; write one of the two"])
    if as_json and not is_agreed and (is_to_apply or is_to_undo):
        exit_mistaken(["--yes: is missing, which --json needs, as nobody can be asked"])
    telling = _Telling(as_json=as_json, is_agreed=is_agreed)
    try:
        ledger = read_ledger(tree)
        if is_to_undo:
            status = _undo(tree, ledger, telling)
        else:
            file = config_file or os.environ.get(FILE_VARIABLE) or None
            config, file = _configured(tree, flags, file)
            wish = wish_of(config, _domains(search), file)
            plan = make_plan(Before(tree, ledger), wish)
            telling.plan(tree, ledger, plan)
            _tell_whether_it_runs(tree, wish, telling)
            if plan.obstacles:
                status = FAILED
            elif not is_to_apply:
                telling.say(_APPLY if telling.has_changes else _IS_SO)
                status = 0
            else:
                status = _apply(tree, ledger, plan, telling)
                if tree.is_this_machine and not status:
                    status = _try(wish, config, telling)
    except MachineError as error:
        exit_failed(error)
    telling.finish()
    sys.exit(status)


def _configured(tree: Tree, flags: Mapping[str, object], file: str | None) -> tuple[Config, str | None]:
    """The configuration, and its file's path in that tree; where it has mistakes, tell them and exit."""
    if tree.is_this_machine or file is None:
        config = load_or_exit(flags, file, with_static=False)
        return config, str(Path(file).absolute()) if file else None
    # What an image's file names lies in the image too, and is nothing that this is about.
    path = str(PurePosixPath("/") / file)
    place = str(tree.at(tree.real(path)))
    return load_or_exit(flags, place, with_static=False, with_access=False), path


def _tell_whether_it_runs(tree: Tree, wish: Wish, telling: _Telling) -> None:
    """Tell before anything is written that nobody would answer."""
    if tree.is_this_machine and telling.has_changes:
        server, why = answering(wish.listening, wish.zones[0])
        if server is None:
            telling.say(f"no zkdns answers yet ({why}): start it before this is written", "yellow")


def _domains(search: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(to_text(parse_name(domain)).lower() for domain in search)
    except BadValueError as error:
        exit_mistaken([f"--search: {error}"])


def _apply(tree: Tree, ledger: Ledger, plan: Plan, telling: _Telling) -> int:
    if telling.has_changes:
        telling.ask("Write this?")
    done = apply(tree, ledger, plan.changes, plan.commands)
    if not done:
        telling.say(_IS_SO)
        return 0
    telling.say(f"written; zkdns setup --undo restores what was there, which {PLACE} keeps")
    return _run(plan.commands, telling) if tree.is_this_machine else 0


def _undo(tree: Tree, ledger: Ledger, telling: _Telling) -> int:
    if not ledger.changes:
        telling.say("zkdns setup has changed nothing here")
        return 0
    before = Before(tree, ledger)
    paths = [change.path for change in ledger.changes]
    telling.changes(Change(path, tree.state(path), before.state(path)) for path in paths)
    for path in before.left:
        telling.say(f"{path}: another program has written it since, and will again; it is left to that")
    telling.ask("Restore this?")
    undo(tree, ledger)
    telling.say("restored; nothing of it is left")
    return _run(ledger.commands, telling) if tree.is_this_machine else 0


def _run(commands: Sequence[tuple[str, ...]], telling: _Telling) -> int:
    """Let programs read their files; the exit status."""
    failures = run_all(commands)
    for failure in failures:
        telling.say(failure, "yellow")
    return FAILED if failures else 0


def _try(wish: Wish, config: Config, telling: _Telling) -> int:
    """Try the way that programs on this machine go; the exit status."""
    reached = try_name(wish.listening, wish.zones[0], config.control, seconds=_PATIENCE)
    telling.say(reached.sentence, {True: "green", False: "red", None: "yellow"}[reached.is_well])
    return FAILED if reached.is_well is False else 0


# -- telling ------------------------------------------------------------------------------------------------


class _Telling:
    """Tells people, or one JSON object at last."""

    def __init__(self, *, as_json: bool, is_agreed: bool) -> None:
        self._as_json = as_json
        self._is_agreed = is_agreed
        self._told = _Told()
        self._console = Console(highlight=False, soft_wrap=True)

    @property
    def has_changes(self) -> bool:
        """Whether any file is to be another one than it is."""
        return bool(self._told.changes)

    def plan(self, tree: Tree, ledger: Ledger, plan: Plan) -> None:
        """Tell what is to be done, and why."""
        told = self._told
        told.keeper, told.reasons = plan.keeper, plan.reasons
        told.commands = tuple(map(" ".join, plan.commands))
        told.notes, told.obstacles = tuple(plan.notes), tuple(plan.obstacles)
        self._print(f"{plan.keeper} is in charge of this machine's names: {'; '.join(plan.reasons)}", "bold")
        for obstacle in plan.obstacles:
            self._print(f"this cannot be done: {obstacle}", "red")
        wanted = {change.path: change.before for change in ledger.changes}
        wanted |= {change.path: change.after for change in plan.changes}
        if not plan.obstacles:
            self.changes(Change(path, tree.state(path), after) for path, after in wanted.items())
            for command in told.commands if told.changes else ():
                self._print(f"then: {command}")
        for note in plan.notes:
            self._print(f"note: {note}", "yellow")

    def changes(self, changes: Iterable[Change]) -> None:
        """Show what becomes of files."""
        real = [change for change in changes if change.before != change.after]
        self._told.changes = tuple(_Shown(change.path, "".join(_diff(change))) for change in real)
        for shown in self._told.changes:
            for line in shown.diff.splitlines():
                self._print(line, _STYLES.get(line[:1], ""))

    def ask(self, question: str) -> None:
        """Ask whoever sits there; where nobody does, --yes must have been written."""
        if self._is_agreed:
            return
        if not is_terminal(sys.stdin):
            exit_mistaken(["--yes: is missing, and nobody is there to be asked"])
        if not click.confirm(question, err=True):
            sys.exit(FAILED)

    def say(self, sentence: str, style: str = "") -> None:
        """Tell what was done, or what came of it."""
        self._told.said += (sentence,)
        self._print(sentence, style)

    def finish(self) -> None:
        """Nothing more is to be told."""
        if self._as_json:
            click.echo(msgspec.json.encode(self._told))

    def _print(self, line: str, style: str = "") -> None:
        if not self._as_json:
            self._console.print(Text(line, style=style))


def _diff(change: Change) -> Iterator[str]:
    """A unified diff of one file."""
    before, after = _lines(change.before), _lines(change.after)
    names = (f"{change.path} (now)", f"{change.path} (then)")
    for line in difflib.unified_diff(before, after, *names):
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def _lines(state: State) -> list[str]:
    """What is there, as a diff shows it; a link as one line."""
    if isinstance(state, Link):
        return [f"a link to {state.target}\n"]
    return state.content.decode(errors="replace").splitlines(keepends=True) if isinstance(state, File) else []
