"""`zkdns flush`: let a running server forget what it has cached of upstreams' answers."""

from __future__ import annotations

import click
import msgspec

from zkdns.cli.options import FAILED, config_option, exit_failed
from zkdns.cli.running import ask_server, control_option
from zkdns.daemon.ipc.control_messages import FlushCaches, Flushed
from zkdns.errors import ZkdnsError


class Report(msgspec.Struct, frozen=True):
    """What `--json` prints."""

    name: str | None
    """This name was forgotten, and what lies below it; None: everything was."""
    flushed_workers: int
    """By so many processes,"""
    workers: int
    """of so many that answer."""


@click.command()
@click.argument("name", required=False)
@control_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def flush(name: str | None, control: str | None, config_file: str | None, as_json: bool) -> None:
    """Let a server ask its upstreams anew.

    What it has cached of NAME and of all that lies below it is forgotten; without NAME everything is. The
    server's own zones are never cached. The exit status is 1 where nothing is cached, or not every process
    that answers could be told, 2 for mistakes, 3 where no server answers.
    """
    flushed = ask_server(FlushCaches(name), Flushed, control, config_file)
    if as_json:
        click.echo(msgspec.json.encode(Report(name, flushed.flushed_workers, flushed.workers)))
    done = flushed.flushed_workers
    if done < flushed.workers:
        exit_failed(
            ZkdnsError(f"of {flushed.workers} processes that answer {done} could be told; try again"), FAILED
        )
    if as_json:
        return
    what = f"{name} and what lies below" if name is not None else "everything"
    click.echo(f"forgotten: {what}, by {done} process{'es' if done > 1 else ''}")
