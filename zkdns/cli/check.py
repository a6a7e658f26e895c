"""`zkdns check`: is the configuration right?"""

from __future__ import annotations

import click

from zkdns.cli.options import config_option, load_or_exit, setting_options


@click.command()
@config_option
@setting_options
def check(config_file: str | None, **flags: object) -> None:
    """Validate the configuration without starting; every mistake is told at once (exit status 2)."""
    config = load_or_exit(flags, config_file)
    sources = [config.zookeeper and f"ZooKeeper at {config.zookeeper}", config.fixed, config.demo and "the example"]
    click.echo(f"right: {' and '.join(filter(None, sources))}, at {', '.join(map(str, config.listen))}")
