"""`zkdns check`: is the configuration right?"""

from __future__ import annotations

import sys

import click
import msgspec

from zkdns.cli.options import DONE, MISTAKEN, config_option, load, load_or_exit, setting_options
from zkdns.config import Config
from zkdns.errors import ConfigError
from zkdns.names import to_text


class Report(msgspec.Struct, frozen=True):
    """What `--json` prints; what lies in the configuration is called as in a file."""

    right: bool
    mistakes: tuple[str, ...] = ()
    """Sentences; where there are any, the rest is not known."""
    zones: tuple[str, ...] = ()
    zookeeper: str | None = None
    static: str | None = None
    demo: bool = False
    offline: bool = False
    snapshot: str | None = None
    listen: tuple[str, ...] = ()


@click.command()
@config_option
@setting_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, which holds mistakes too.")
def check(config_file: str | None, as_json: bool, **flags: object) -> None:
    """Validate the configuration without starting; every mistake is told at once.

    The exit status is 2 where there are mistakes.
    """
    if not as_json:
        click.echo(_summary(load_or_exit(flags, config_file)))
        return
    try:
        report = _report(load(flags, config_file))
    except ConfigError as error:
        report = Report(right=False, mistakes=error.errors)
    click.echo(msgspec.json.encode(report))
    sys.exit(DONE if report.right else MISTAKEN)


def _summary(config: Config) -> str:
    zookeeper = f"ZooKeeper at {config.zookeeper.hosts}" if config.zookeeper.hosts else None
    demo = "the embedded example" if config.demo else None
    alone = f"the snapshot {config.snapshot.path}" if config.offline else None
    sources = " and ".join(source for source in (zookeeper, config.static, demo, alone) if source)
    zones = " and ".join(map(to_text, config.zones))
    return f"right: {zones} from {sources}, at {', '.join(map(str, config.listen))}"


def _report(config: Config) -> Report:
    return Report(
        right=True,
        zones=tuple(map(to_text, config.zones)),
        zookeeper=str(config.zookeeper.hosts) if config.zookeeper.hosts else None,
        static=config.static,
        demo=config.demo,
        offline=config.offline,
        snapshot=config.snapshot.path,
        listen=tuple(map(str, config.listen)),
    )
