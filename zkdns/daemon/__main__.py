"""The entry of child processes: `python -m zkdns.daemon ROLE FD`, called by the supervisor alone.

Each role's modules are its own: an answerer that replaces a lost one is back the sooner without kazoo.
"""

import sys

# structlog would load rich, where that is installed, for tracebacks that are not printed here: a quarter of
# the time that all imports take, at each start of a process that others wait for.
sys.modules["rich"] = None  # type: ignore[assignment]

from zkdns.daemon.child import main  # noqa: E402

if sys.argv[1] == "watcher":
    from zkdns.daemon.watcher import watch

    main({"watcher": watch})
else:
    from zkdns.daemon.answerer import answer
    from zkdns.transport.event_loop import ServingLoop

    main({"answerer": answer}, ServingLoop)
