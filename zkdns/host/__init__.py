"""How this machine resolves names: `setup` points it at zkdns and undoes that, `doctor` finds problems.

This package decides nothing for the server, and prints nothing.
"""
