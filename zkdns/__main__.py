"""`python -m zkdns` is the command `zkdns`."""

from zkdns.cli import main

main()
