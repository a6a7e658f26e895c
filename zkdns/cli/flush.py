"""`zkdns flush`: remove responses from a running server's forward cache."""

from __future__ import annotations

import click
import msgspec

from zkdns.admin.api_types import Flushed
from zkdns.cli.api_options import make_client, request_or_exit, server_option, token_option
from zkdns.cli.command import Command
from zkdns.cli.options import config_option, fail
from zkdns.cli.streams import write_json, write_lines
from zkdns.plurals import counted


class Report(msgspec.Struct, frozen=True):
    """The output of `--json`."""

    name: str | None
    """The flushed name; names below it are flushed too. None: all names."""
    flushed_workers: int
    """The number of workers that flushed their caches."""
    workers: int
    """The number of workers of the server."""


@click.command(
    cls=Command,
    examples=(
        ("zkdns flush example.com", "After a change of records in this domain"),
        ("zkdns flush", "The whole cache"),
    ),
)
@click.argument("name", required=False)
@server_option
@token_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def flush(
    name: str | None, server: str | None, token_file: str | None, config_file: str | None, as_json: bool
) -> None:
    """Remove responses from a running server's forward cache.

    Removes the responses for NAME and all names below it, or without NAME all responses. NAME is a domain
    name, or an address, which stands for its reverse name. Names in the server's own zones are never in this
    cache. The exit status is 1 if the server forwards no queries, 2 for usage errors, 3 if the server does
    not respond, 5 if it denies the request or not all workers could be reached.
    """
    client = make_client(server, config_file, token_file)
    flushed = request_or_exit(client.post, "flush", Flushed, name=name)
    if as_json:
        write_json(Report(name, flushed.flushed_workers, flushed.workers))
    done = flushed.flushed_workers
    if done < flushed.workers:
        fail(f"flushed only {done} of {flushed.workers} workers; try again")
    if as_json:
        return
    removed = f"{name} and all names below it" if name is not None else "all names"
    write_lines(f"flushed {removed} in {counted(done, 'worker')}")
