"""`zkdns setup`: make this machine resolve names through zkdns, and undo that."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import click
import msgspec

from zkdns.cli.command import Command
from zkdns.cli.options import config_option, fail, fail_usage, load_or_exit, options_of
from zkdns.cli.output import StyledLines
from zkdns.cli.statuses import ExitStatus
from zkdns.cli.streams import is_terminal, write_json
from zkdns.config import SETTINGS, Config
from zkdns.config.load import FILE_VARIABLE
from zkdns.errors import BadValueError
from zkdns.host.end_to_end import check_end_to_end, find_server
from zkdns.host.files import File, FileState, FileTree, HostError, Link
from zkdns.host.setup.journal import (
    JOURNAL_FILE,
    Change,
    ChangeJournal,
    OriginalTree,
    apply,
    read_journal,
    run_commands,
    undo,
)
from zkdns.host.setup.plan import SetupPlan, SetupRequest, make_plan
from zkdns.names import parse_name, to_text

_STYLES = {"+": "green", "-": "red", "@": "cyan"}
_UP_TO_DATE = "the files are already up to date"
_NOT_WRITTEN = "nothing has been written yet: run zkdns setup --apply"
_RETRY_SECONDS = 5.0  # resolvers need time to read their files
_CONFIGURED = tuple(
    row for row in SETTINGS if row.key in {"listen", "zone", "forward.upstreams", "admin.socket"}
)


class _FileDiff(msgspec.Struct, frozen=True):
    """A changed file in the output of `--json`."""

    path: str
    diff: str


class _Report(msgspec.Struct):
    """The output of `--json`."""

    manager: str | None = None
    """The program that manages name resolution; None with `--undo`, which does not detect it."""
    reasons: tuple[str, ...] = ()
    changes: tuple[_FileDiff, ...] = ()
    """Relative to the current files."""
    commands: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()
    """Completed steps and their results."""


@click.command(
    cls=Command,
    examples=(
        (
            "zkdns setup --search staging.discovery",
            "Show the changes; programs will find web as web.staging.discovery",
        ),
        ("zkdns setup --search staging.discovery --apply", "Make these changes"),
        ("zkdns setup --undo", "Restore the previous files"),
    ),
)
@click.option("--apply", "is_to_apply", is_flag=True, help="Write the changes, after confirmation.")
@click.option("--undo", "is_to_undo", is_flag=True, help="Restore the previous files.")
@click.option("--yes", "is_agreed", is_flag=True, help="Do not ask for confirmation.")
@click.option(
    "--search",
    metavar="DOMAIN",
    multiple=True,
    help="Add a search domain, so that web finds web.DOMAIN. Repeatable.",
)
@click.option("--root", metavar="DIR", default="/", show_default=True, help="Change the system image in DIR.")
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
    """Make this machine resolve names through zkdns.

    Without --apply, show the changes as a diff. The previous files are saved, and --undo restores them. The
    exit status is 1 if names are not resolved through zkdns afterwards, 2 for usage errors, 5 if setup is not
    possible.
    """
    tree = FileTree(Path(root))
    if not tree.root.is_dir():
        fail_usage([f"--root: {root} is not a directory"])
    if is_to_apply and is_to_undo:
        fail_usage(["--undo: cannot be combined with --apply"])
    if as_json and not is_agreed and (is_to_apply or is_to_undo):
        fail_usage(["--yes: is missing; --json needs it, because it does not ask for confirmation"])
    output = _Output(as_json=as_json, is_agreed=is_agreed)
    try:
        journal = read_journal(tree)
        if is_to_undo:
            status = _undo(tree, journal, output)
        else:
            file = config_file or os.environ.get(FILE_VARIABLE) or None
            config, file = _load_config(tree, flags, file)
            request = SetupRequest.from_config(config, _parse_domains(search), file)
            plan = make_plan(OriginalTree(tree, journal), request)
            output.show_plan(tree, journal, plan)
            _check_running(tree, request, output)
            if plan.obstacles:
                status = ExitStatus.FAILED
            elif not is_to_apply:
                output.message(_NOT_WRITTEN if output.has_changes else _UP_TO_DATE)
                status = 0
            else:
                status = _apply(tree, journal, plan, output)
                if tree.is_this_machine and not status:
                    status = _check_result(request, config, output)
    except HostError as error:
        fail(error)
    output.finish()
    sys.exit(status)


def _load_config(tree: FileTree, flags: Mapping[str, object], file: str | None) -> tuple[Config, str | None]:
    """Return the configuration, and its file's path in the tree; print errors and exit if it is invalid."""
    if tree.is_this_machine or file is None:
        config = load_or_exit(flags, file, with_static=False)
        return config, str(Path(file).absolute()) if file else None
    # Paths in the file are paths in the image, so the files that they name are not checked.
    path = str(PurePosixPath("/") / file)
    place = str(tree.at(tree.real(path)))
    return load_or_exit(flags, place, with_static=False, with_access=False), path


def _check_running(tree: FileTree, request: SetupRequest, output: _Output) -> None:
    """Warn if no server runs yet, before anything is written."""
    if tree.is_this_machine and output.has_changes:
        server, reason = find_server(request.listening, request.zones[0])
        if server is None:
            output.message(f"no zkdns is running yet ({reason}): start it before you apply this", "yellow")


def _parse_domains(search: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(to_text(parse_name(domain)).lower() for domain in search)
    except BadValueError as error:
        fail_usage([f"--search: {error}"])


def _apply(tree: FileTree, journal: ChangeJournal, plan: SetupPlan, output: _Output) -> int:
    if output.has_changes:
        output.confirm("Write these changes?")
    if not apply(tree, journal, plan.changes, plan.commands):
        output.message(_UP_TO_DATE)
        return 0
    # First, because a failure to print must not keep programs from reading the new files.
    failures = run_commands(plan.commands) if tree.is_this_machine else []
    output.message(f"written; zkdns setup --undo restores the previous files, which are in {JOURNAL_FILE}")
    return _report_failures(failures, output)


def _undo(tree: FileTree, journal: ChangeJournal, output: _Output) -> int:
    if not journal.changes:
        output.message("nothing to undo: zkdns setup has changed no files")
        return 0
    before = OriginalTree(tree, journal)
    paths = [change.path for change in journal.changes]
    output.show_changes(Change(path, tree.state(path), before.state(path)) for path in paths)
    output.confirm("Restore these files?")
    undo(tree, journal)
    failures = run_commands(journal.commands) if tree.is_this_machine else []  # first, as above
    output.message("restored the previous files")
    return _report_failures(failures, output)


def _report_failures(failures: Sequence[str], output: _Output) -> int:
    """Report the programs that could not read their files again; return the exit status."""
    for failure in failures:
        output.message(failure, "yellow")
    return ExitStatus.FAILED if failures else 0


def _check_result(request: SetupRequest, config: Config, output: _Output) -> int:
    """Resolve a name as programs on this machine do; return the exit status."""
    result = check_end_to_end(
        request.listening, request.zones[0], config.admin.socket, seconds=_RETRY_SECONDS
    )
    output.message(result.message, {True: "green", False: "red", None: "yellow"}[result.is_ok])
    return ExitStatus.NEGATIVE if result.is_ok is False else 0


# -- output -----------------------------------------------------------------------------------------------


class _Output:
    """Prints lines as they come, or one JSON object at the end."""

    def __init__(self, *, as_json: bool, is_agreed: bool) -> None:
        self._as_json = as_json
        self._is_agreed = is_agreed
        self._report = _Report()
        self._lines = StyledLines()

    @property
    def has_changes(self) -> bool:
        """Whether any file would change."""
        return bool(self._report.changes)

    def show_plan(self, tree: FileTree, journal: ChangeJournal, plan: SetupPlan) -> None:
        """Show the changes, and the reasons for them."""
        report = self._report
        report.manager, report.reasons = plan.manager, plan.reasons
        report.commands = tuple(map(" ".join, plan.commands))
        report.notes, report.obstacles = tuple(plan.notes), tuple(plan.obstacles)
        self._print(f"name resolution is managed by {plan.manager}: {'; '.join(plan.reasons)}", "bold")
        for obstacle in plan.obstacles:
            self._print(f"setup is not possible: {obstacle}", "red")
        wanted = {change.path: change.before for change in journal.changes}
        wanted |= {change.path: change.after for change in plan.changes}
        if not plan.obstacles:
            self.show_changes(Change(path, tree.state(path), after) for path, after in wanted.items())
            for command in report.commands if report.changes else ():
                self._print(f"then: {command}")
        for note in plan.notes:
            self._print(f"note: {note}", "yellow")

    def show_changes(self, changes: Iterable[Change]) -> None:
        """Show a diff of each file that would change."""
        changed = [change for change in changes if change.before != change.after]
        self._report.changes = tuple(_FileDiff(change.path, "".join(_diff(change))) for change in changed)
        for file in self._report.changes:
            for line in file.diff.removesuffix("\n").split("\n"):
                self._print(line, _STYLES.get(line[:1], ""))

    def confirm(self, question: str) -> None:
        """Ask for confirmation; without a terminal, `--yes` is required."""
        if self._is_agreed:
            return
        if not is_terminal(sys.stdin):
            fail_usage(["--yes: is missing, and there is no terminal to ask for confirmation"])
        if not click.confirm(question, err=True):
            sys.exit(ExitStatus.FAILED)

    def message(self, sentence: str, style: str = "") -> None:
        """Report a completed step, or its result."""
        self._report.messages += (sentence,)
        self._print(sentence, style)

    def finish(self) -> None:
        """Print the JSON object, if that is wanted."""
        if self._as_json:
            write_json(self._report)

    def _print(self, line: str, style: str = "") -> None:
        if not self._as_json:
            self._lines.write(line, style=style)


def _diff(change: Change) -> Iterator[str]:
    """A unified diff of one file."""
    before, after = _lines(change.before), _lines(change.after)
    names = (f"{change.path} (current)", f"{change.path} (new)")
    for line in difflib.unified_diff(before, after, *names):
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def _lines(state: FileState) -> list[str]:
    """The lines of a file for a diff; a link is one line."""
    if isinstance(state, Link):
        return [f"a link to {state.target}\n"]
    text = state.content.decode(errors="backslashreplace") if isinstance(state, File) else ""
    return re.findall(r"[^\n]*\n|[^\n]+", text)  # no other character ends a line
