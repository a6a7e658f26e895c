"""click's usage errors as one sentence each, in the form of all other errors: `--min: is 'abc'; write …`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import click

_WITHOUT_VALUE = re.compile(r"requires an? ")
_EXTRA = re.compile(r"extra arguments? \((.*)\)")


def usage_sentence(error: click.UsageError, context: click.Context) -> str:
    """Describe a usage error: the option or argument, the value found and the accepted ones.

    Args:
        error: of a command.
        context: of the program, for an error without a context.
    """
    context = error.ctx or context
    match error:
        case click.NoSuchOption():
            options = [option for one in context.command.get_params(context) for option in _forms(one)]
            near = nearest(error.option_name, options)
            hint = f"did you mean {near}?" if near else f"'{context.command_path} --help' lists the options"
            return f"{error.option_name}: there is no such option; {hint}"
        case click.BadOptionUsage():
            option = error.option_name
            if _WITHOUT_VALUE.search(error.message):
                problem, wanted = "needs a value", f"{option} {_metavar(option, context)}"
            else:
                problem, wanted = "takes no value", f"{option} alone"
            return f"{option}: {problem}; write {wanted}"
        case click.MissingParameter(param=click.Parameter() as parameter):
            return f"{_name(parameter)}: is missing; usage: {_usage(context)}"
        case click.BadParameter(param=click.Parameter() as parameter):
            return f"{_name(parameter)}: {_as_clause(error.message)}"
    if extra := _EXTRA.search(error.message):
        return f"{extra[1]}: unexpected argument; usage: {_usage(context)}"
    return _as_clause(error.format_message())


def nearest(written: str, accepted: Iterable[str]) -> str | None:
    """Return the accepted word that is most similar to the written one. None: none is similar."""
    return next(iter(get_close_matches(written, list(accepted), n=1)), None)


def _metavar(option: str, context: click.Context) -> str:
    """The form of an option's value. click's error has no context, so it is of the invoked command."""
    program, invoked = context.command, context.invoked_subcommand
    if isinstance(program, click.Group) and invoked:
        command = program.get_command(context, invoked)
        for parameter in command.get_params(context) if command is not None else ():
            if option in parameter.opts:
                return parameter.metavar or "VALUE"
    return "VALUE"


def _forms(parameter: click.Parameter) -> Sequence[str]:
    if not isinstance(parameter, click.Option):
        return ()
    return [option for option in (*parameter.opts, *parameter.secondary_opts) if option.startswith("--")]


def _name(parameter: click.Parameter) -> str:
    """The longest form of an option, or the name of an argument in usage lines."""
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    written = (parameter.metavar or "").strip("[]")
    return written if written.isalpha() else str(parameter.name).upper()


def _usage(context: click.Context) -> str:
    return " ".join([context.command_path, *context.command.collect_usage_pieces(context)])


def _as_clause(sentence: str) -> str:
    """A sentence of click as the end of another one."""
    return sentence[:1].lower() + sentence[1:].removesuffix(".")
