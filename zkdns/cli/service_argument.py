"""The argument SERVICE of commands that use a server, with `--environment`, and similar names in errors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NoReturn, TypeVar

import click
from click.shell_completion import CompletionItem

from zkdns.admin.client import ApiClient, RefusedError, UnreachableError
from zkdns.cli.name_completion import complete_names
from zkdns.cli.options import fail, fail_usage, flag_option
from zkdns.cli.serverset_options import ENVIRONMENT
from zkdns.cli.statuses import ExitStatus
from zkdns.cli.streams import write_error
from zkdns.errors import BadValueError
from zkdns.spelling import ServiceText, parse_spelling

F = TypeVar("F", bound=Callable[..., Any])

MAX_HELD: Final = 10
"""Maximum number of services with a sentence about their held members. Further ones are only counted."""

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def service_argument(
    name: str = "service", *, is_required: bool = True, complete: Complete = complete_names
) -> Callable[[F], F]:
    """Make a decorator that adds the argument and `--environment`. The command gets one text for both.

    Args:
        name: of the argument and of the command's parameter.
        is_required: whether the argument is required. If it is not, the text may be None.
        complete: completes the argument in a shell.
    """

    def add(command: F) -> F:
        @functools.wraps(command)
        def run(**options: Any) -> object:  # noqa: ANN401 - the options of the command
            text, environment = options[name], options.pop("environment")
            if environment is not None:
                options[name] = join_environment(text, environment)
            return command(**options)

        with_option = flag_option(ENVIRONMENT)(run)
        return click.argument(name, required=is_required, shell_complete=complete)(with_option)  # type: ignore[return-value]

    return add


def join_environment(service: str | None, environment: str) -> str:
    """Return the name of a service without its zone. If the two do not make one, print the error and exit."""
    if service is None:
        fail_usage(["--environment: is without a service; write its name too, such as web"])
    if service.startswith("/") or service.endswith("."):
        fail_usage([f"--environment: the service is {service!r}; with --environment, write only web"])
    name = f"{service}.{environment.removesuffix('.')}"
    try:
        parse_spelling(name)
    except BadValueError as error:
        fail_usage([f"--environment: {error}"])
    return name


def fail_not_found(client: ApiClient, text: str, error: str) -> NoReturn:
    """Print that a request has no result, and exit. For an unknown service, name those with similar names.

    Args:
        client: of the server.
        text: the spelling of the service.
        error: what to print if the service exists.
    """
    try:
        is_name = isinstance(parse_spelling(text), ServiceText) or text.startswith("/")
        if is_name and not client.count(text).exists:
            error = f"there is no service {text}{similar_names(client, text)}"
    except (BadValueError, UnreachableError, RefusedError):  # the error itself is more important
        pass
    fail(error, ExitStatus.NEGATIVE)


def similar_names(client: ApiClient, text: str) -> str:
    """Return the end of a sentence with similar names of services. Empty: there are none, or no response."""
    try:
        names = client.similar_names(text)
    except (UnreachableError, RefusedError):
        return ""
    return f"; similar names: {', '.join(names)}" if names else ""


def note_held(counts: Mapping[str, int]) -> None:
    """Print `held_sentences`."""
    for sentence in held_sentences(counts):
        write_error(sentence)


def held_sentences(counts: Mapping[str, int]) -> Iterator[str]:
    """Why the held members of services are answered, and how to end that.

    Args:
        counts: the numbers of held members by service.
    """
    for service, count in sorted(counts.items())[:MAX_HELD]:
        members, they = ("1 held member", "it has") if count == 1 else (f"{count} held members", "they have")
        yield (
            f"{service} is also answered with {members}: {they} left, which may be a failure of ZooKeeper; "
            f"if it was on purpose: zkdns accept {service}"
        )
    if (more := len(counts) - MAX_HELD) > 0:
        yield f"{more} more services are also answered with held members: zkdns help operations"
