"""`zkdns check`: validate the configuration."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import click
import msgspec

from zkdns.cli.options import SettingsCommand, config_option, fail_usage, load, setting_options
from zkdns.cli.statuses import ExitStatus
from zkdns.cli.streams import write_json, write_lines
from zkdns.config import Config
from zkdns.errors import ConfigError
from zkdns.host.runtime_files import find_file_errors
from zkdns.names import to_text


class Report(msgspec.Struct, frozen=True):
    """The output of `--json`. Settings have the same names as in the configuration file."""

    valid: bool
    errors: tuple[str, ...] = ()
    """If there are any, all other fields have their defaults."""
    zones: tuple[str, ...] = ()
    zookeeper: str | None = None
    primary: tuple[str, ...] = ()
    default_source: bool = False
    """Whether no source is configured, so that `zookeeper` is the default."""
    static: str | None = None
    demo: bool = False
    offline: bool = False
    snapshot: str | None = None
    listen: tuple[str, ...] = ()
    listen_tls: tuple[str, ...] = ()
    transfer: tuple[str, ...] = ()
    """Networks and, with `key:` before them, names of keys that may copy the zones."""


@click.command(
    cls=SettingsCommand,
    examples=(
        ("zkdns check --config zkdns.toml", "A file before the server reads it"),
        ("zkdns check --config zkdns.toml --json", "All errors as JSON, for a program"),
    ),
)
@config_option
@setting_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, also for errors.")
def check(config_file: str | None, as_json: bool, **flags: object) -> None:
    """Validate the configuration without starting the server.

    All errors in options, variables and files are reported together. So are token, snapshot and API socket
    that this user cannot use; serve starts without them. The exit status is 2 if there are errors.
    """
    try:
        config = _load(flags, config_file)
    except ConfigError as error:
        if not as_json:
            fail_usage(error.errors)
        write_json(Report(valid=False, errors=error.errors))
        sys.exit(ExitStatus.USAGE)
    if as_json:
        write_json(_report(config))
    else:
        write_lines(_summary(config))


def _load(flags: Mapping[str, object], config_file: str | None) -> Config:
    config = load(flags, config_file)
    if errors := tuple(find_file_errors(config)):
        raise ConfigError(errors)
    return config


def _summary(config: Config) -> str:
    default = " (the default, because no source is configured)" if config.has_default_source else ""
    zookeeper = f"ZooKeeper at {config.zookeeper.hosts}{default}" if config.zookeeper.hosts else None
    servers = " or ".join(map(str, config.primary.servers))
    primary = f"zone transfers of {servers}" if config.is_secondary else None
    demo = "the built-in example" if config.demo else None
    snapshot = f"the snapshot {config.snapshot.path}" if config.offline else None
    sources = " and ".join(source for source in (zookeeper, primary, config.static, demo, snapshot) if source)
    zones = " and ".join(map(to_text, config.zones))
    transfer = f", copied by {' and '.join(_secondaries(config))}" if config.transfer.is_enabled else ""
    tls = f", over TLS at {', '.join(map(str, config.tls.listen))}" if config.tls.listen else ""
    return f"valid: {zones} from {sources}, at {', '.join(map(str, config.listen))}{tls}{transfer}"


def _secondaries(config: Config) -> tuple[str, ...]:
    return (*config.transfer.allow, *(f"key:{key.name}" for key in config.transfer.keys))


def _report(config: Config) -> Report:
    return Report(
        valid=True,
        zones=tuple(map(to_text, config.zones)),
        zookeeper=str(config.zookeeper.hosts) if config.zookeeper.hosts else None,
        primary=tuple(map(str, config.primary.servers)),
        default_source=config.has_default_source,
        static=config.static,
        demo=config.demo,
        offline=config.offline,
        snapshot=config.snapshot.path,
        listen=tuple(map(str, config.listen)),
        listen_tls=tuple(map(str, config.tls.listen)),
        transfer=_secondaries(config),
    )
