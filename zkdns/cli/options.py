"""Shared by all commands: options of settings, and error messages."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from click.shell_completion import CompletionItem

from zkdns.address import HostPort
from zkdns.cli.command import Command
from zkdns.cli.statuses import ExitStatus, status_of
from zkdns.cli.streams import write_error
from zkdns.config import SETTINGS, Config, PrimarySettings, Setting, load_config
from zkdns.config.load import FILE_VARIABLE
from zkdns.config.setting import flag_of
from zkdns.config.tsig_key import load_secret
from zkdns.durations import duration_parser
from zkdns.errors import BadValueError, ConfigError, ZkdnsError
from zkdns.names import to_text
from zkdns.namespace import Namespace
from zkdns.serverset.auth import load_access
from zkdns.serverset.static_file import load_demo, load_static
from zkdns.snapshot import SnapshotError, expected_by, read_header

F = TypeVar("F", bound=Callable[..., Any])

_TOP_LEVEL = "Top level"  # of the configuration file
_WITHOUT_DEFAULT = frozenset({"zookeeper.hosts", "admin.socket"})  # depends on other settings or the user
_NONE: Mapping[str, str] = {}


class SettingOption(click.Option):
    """An option whose help shows the default and the variable of its setting.

    click knows neither: `load_config` reads the variables and applies the defaults.

    Args:
        variable: the environment variable; empty if there is none.
        setting: None if the option belongs to no setting, or the default is in its help.
        required: whether a command needs it: `required`, or with the condition; empty if it does not. click
            does not check it, so that a missing option is reported together with all other errors.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - click's arguments
        variable: str = "",
        setting: Setting | None = None,
        required: str = "",
        **attributes: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **attributes)
        self.variable = variable
        self.required_text = required
        self._setting = setting

    @property
    def section(self) -> str | None:
        """The section of its setting, as help texts write it. None: the option belongs to no setting."""
        if self._setting is None:
            return None
        section = self._setting.key.rpartition(".")[0]
        return f"[{section}]" if section else _TOP_LEVEL

    @property
    def default_text(self) -> str:
        """The default of the setting; empty if there is none."""
        return default_text(self._setting) if self._setting is not None else ""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The forms of the option, and its help; in brackets the variable, the default and `required`."""
        record = super().get_help_record(ctx)
        if record is None:
            return None
        forms, text = record
        extra = [f"env var: {self.variable}"] if self.variable else []
        if self.default_text and "Default: " not in text:
            extra.append(f"default: {self.default_text}")
        if self.required_text:
            extra.append(self.required_text)
        return forms, f"{text}  [{'; '.join(extra)}]" if extra else text


class SettingsCommand(Command):
    """A command with an option for each setting. Its help lists them by the sections of the configuration."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a list for each section: the other options first, then the settings of the top level."""
        lists: dict[str, list[tuple[str, str]]] = {"Options": [], _TOP_LEVEL: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            section = parameter.section if isinstance(parameter, SettingOption) else None
            if record is not None:
                lists.setdefault(section or "Options", []).append(record)
        for title, records in lists.items():
            with formatter.section(title):
                formatter.write_dl(records)


def default_text(setting: Setting) -> str:
    """The default of a setting as text; empty if there is none."""
    if setting.key in _WITHOUT_DEFAULT:
        return ""
    defaults = _defaults()
    if setting.key == "zone":
        return to_text(defaults.zone)
    if setting.key == "namespace":
        return defaults.namespace.template
    if setting.key == "member_prefix":
        return defaults.namespace.member_prefix
    return _value_text(attrgetter(setting.field)(defaults))


@functools.cache
def _defaults() -> Config:
    return load_config(flags={}, environment={}, file=None)


def _value_text(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "on" if value else "off"
        case float():
            return f"{value:g}"
        case tuple():
            return ", ".join(map(str, value))
        case _:
            return str(value)


def complete_file(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Let the shell complete file names."""
    return [CompletionItem(incomplete, type="file")]


config_option = click.option(
    "--config",
    "config_file",
    cls=SettingOption,
    variable=FILE_VARIABLE,
    metavar="FILE",
    shell_complete=complete_file,
    help="Configuration file (TOML). Variables override it, and options override both.",
)


def flag_option(setting: Setting, required: str = "") -> Callable[[F], F]:
    """Make the option of a setting. click accepts any text; `load_config` reports all errors together."""
    variable = setting.variable if setting.in_environment else ""
    configured = setting if setting.in_environment else None
    if setting.is_boolean:
        # The negative form overrides a file or a variable.
        flags = f"{setting.flag}/{flag_of('no_' + setting.name)}" if setting.in_environment else setting.flag
        return click.option(
            flags,
            setting.name,
            cls=SettingOption,
            variable=variable,
            setting=configured,
            is_flag=True,
            default=None,
            help=setting.help,
        )
    return click.option(
        setting.flag,
        setting.name,
        cls=SettingOption,
        variable=variable,
        setting=configured,
        required=required,
        metavar=setting.metavar,
        multiple=setting.many,
        help=setting.help + (" Repeatable." if setting.many else ""),
        shell_complete=complete_file if setting.is_file else complete_words(*setting.words),
    )


def complete_words(
    *words: str,
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Return a completion function for these words; case does not matter."""

    def complete(
        _context: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(word) for word in words if word.lower().startswith(incomplete.lower())]

    return complete


def duration_option(flag: str, lowest: float, highest: float, *, help: str) -> Callable[[F], F]:  # noqa: A002 - as in click
    """Make an option for a duration. The command gets seconds, or None without the option."""
    parse = duration_parser(lowest, highest)

    def callback(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
        if value is None:
            return None
        try:
            return parse(value)
        except BadValueError as error:
            fail_usage([f"{flag}: {error}"])

    return click.option(flag, callback=callback, metavar="DURATION", help=help)


def options_of(settings: Iterable[Setting], required: Mapping[str, str] = _NONE) -> Callable[[F], F]:
    """Return a decorator that adds the options of these settings, except those without a flag.

    Args:
        settings: in the order of the help.
        required: by `Setting.name`, as in `SettingOption`.
    """

    def add(command: F) -> F:
        for setting in reversed(tuple(settings)):
            if setting.in_flags:
                command = flag_option(setting, required.get(setting.name, ""))(command)
        return command

    return add


setting_options = options_of(SETTINGS)
"""Adds the option of each setting that has a flag."""


def load_or_exit(
    flags: Mapping[str, object],
    config_file: str | None,
    *,
    with_static: bool = True,
    with_access: bool = True,
    listen: tuple[HostPort, ...] = (),
) -> Config:
    """Load the configuration with `load`. If it has errors, print all of them and exit."""
    try:
        return load(flags, config_file, with_static=with_static, with_access=with_access, listen=listen)
    except ConfigError as error:
        fail_usage(error.errors)


def load(
    flags: Mapping[str, object],
    config_file: str | None,
    *,
    with_static: bool = True,
    with_access: bool = True,
    listen: tuple[HostPort, ...] = (),
) -> Config:
    """Load the configuration.

    Args:
        flags: values by `Setting.name`, as click parses them.
        config_file: the value of `--config`.
        with_static: check the static file too, and with `offline` the snapshot.
        with_access: check the files for access to ZooKeeper, the certificates and the secrets of TSIG keys
            too.
        listen: the default of the setting `listen`.

    Raises:
        ConfigError: the configuration has errors; it holds all of them.
    """
    config = load_config(
        flags=flags,
        environment=os.environ,
        file=config_file,
        listen=listen,
        check_static=check_static if with_static else None,
        check_access=load_access if with_access else None,
        check_primary=check_primary if with_access else None,
    )
    if with_access:
        check_certificates(config)
        check_secrets(config)
    if config.demo:
        load_demo(config.namespaces)
    if config.offline and config.snapshot.path and with_static:
        try:
            read_header(Path(config.snapshot.path), expected_by(config, time.time()))
        except SnapshotError as error:
            raise ConfigError([str(error)]) from None
    return config


def check_static(path: str, namespaces: Sequence[Namespace]) -> None:
    """Read the static file to check it.

    Raises:
        ConfigError: the file has errors.
    """
    load_static(Path(path), namespaces)


def check_primary(settings: PrimarySettings) -> None:
    """Read the secret of the key and the CA certificates of primaries to check them.

    Raises:
        ConfigError: they have errors.
    """
    if settings.servers:
        from zkdns.secondary.access import load_primary_access  # noqa: PLC0415 - most servers have none

        load_primary_access(settings)


def check_certificates(config: Config) -> None:
    """Load the certificates of the servers to check them.

    Raises:
        ConfigError: with the errors of all certificates.
    """
    errors = []
    for settings in (config.admin, config.tls):
        if settings.certificate is not None:
            from zkdns.transport.tls import Tls  # noqa: PLC0415 - most configurations have none

            try:
                Tls(settings.certificate, settings.key)
            except BadValueError as error:
                errors.append(f"{settings.certificate}: {error}")
    if errors:
        raise ConfigError(errors)


def check_secrets(config: Config) -> None:
    """Read the files with secrets of TSIG keys to check them.

    Raises:
        ConfigError: with the errors of all files.
    """
    errors = []
    for key in config.transfer.keys:
        try:
            load_secret(key)
        except BadValueError as error:
            errors.append(str(error))
    if errors:
        raise ConfigError(errors)


def fail_usage(errors: Iterable[str]) -> NoReturn:
    """Print errors to standard error, one per line, and exit with `ExitStatus.USAGE`."""
    for error in errors:
        write_error(error)
    sys.exit(ExitStatus.USAGE)


def fail(error: ZkdnsError | str, status: int | None = None) -> NoReturn:
    """Print an error to standard error and exit; without a status, with that of the error's type."""
    write_error(str(error))
    if status is None:
        status = status_of(error) if isinstance(error, ZkdnsError) else ExitStatus.FAILED
    sys.exit(status)
