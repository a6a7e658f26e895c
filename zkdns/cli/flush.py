"""`zkdns flush`: remove responses from a running server's forward cache."""

from __future__ import annotations

import click
import msgspec

from zkdns.cli.control_client import control_option, request_or_exit
from zkdns.cli.options import FAILED, config_option, fail
from zkdns.daemon.ipc.control_messages import FlushCaches, Flushed
from zkdns.errors import ZkdnsError


class Report(msgspec.Struct, frozen=True):
    """The output of `--json`."""

    name: str | None
    """The flushed name; names below it are flushed too. None: all names."""
    flushed_workers: int
    """The number of workers that flushed their caches."""
    workers: int
    """The number of workers of the server."""


@click.command()
@click.argument("name", required=False)
@control_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def flush(name: str | None, control: str | None, config_file: str | None, as_json: bool) -> None:
    """Remove responses from a running server's forward cache.

    Removes the responses for NAME and all names below it, or without NAME all responses. Names in the
    server's own zones are never in this cache. The exit status is 1 if the server forwards no queries or not
    all workers could be reached, 2 for usage errors, 3 if the server does not respond.
    """
    flushed = request_or_exit(FlushCaches(name), Flushed, control, config_file)
    if as_json:
        click.echo(msgspec.json.encode(Report(name, flushed.flushed_workers, flushed.workers)))
    done = flushed.flushed_workers
    if done < flushed.workers:
        fail(ZkdnsError(f"flushed only {done} of {flushed.workers} workers; try again"), FAILED)
    if as_json:
        return
    removed = f"{name} and all names below it" if name is not None else "all names"
    click.echo(f"flushed {removed} in {done} worker{'s' if done > 1 else ''}")
