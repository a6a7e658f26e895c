"""Entry point of `python -m zkdns`: the `zkdns` command."""

from zkdns.cli import main

main()
