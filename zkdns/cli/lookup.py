"""`zkdns lookup`: ask a running server, and read its answer as people do."""
import click
@click.command()
def lookup() -> None: ...
