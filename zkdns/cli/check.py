"""`zkdns check`: is the configuration right?"""

from __future__ import annotations

import click

from zkdns.cli.options import config_option, load_or_exit, setting_options
from zkdns.names import to_text


@click.command()
@config_option
@setting_options
def check(config_file: str | None, **flags: object) -> None:
    """Validate the configuration without starting; every mistake is told at once (exit status 2)."""
    config = load_or_exit(flags, config_file)
    zookeeper = f"ZooKeeper at {config.zookeeper}" if config.zookeeper else None
    demo = "the embedded example" if config.demo else None
    alone = f"the snapshot {config.snapshot}" if config.offline else None
    sources = " and ".join(source for source in (zookeeper, config.fixed, demo, alone) if source)
    zones = " and ".join(map(to_text, config.zones))
    click.echo(f"right: {zones} from {sources}, at {', '.join(map(str, config.listen))}")
