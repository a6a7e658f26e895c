"""The entry of child processes: `python -m zkdns.daemon ROLE FD`, called by the supervisor alone.

Each role's modules are its own: a worker that replaces a lost one is back the sooner without kazoo.
"""

import sys

# structlog would load rich, where that is installed, for tracebacks that are not printed here: a quarter of
# the time that all imports take, at each start of a process that others wait for.
sys.modules["rich"] = None  # type: ignore[assignment]

from zkdns.daemon.ipc.child import main  # noqa: E402

if sys.argv[1] == "watcher":
    from zkdns.daemon.watcher.watcher import run_watcher

    main({"watcher": run_watcher})
else:
    from zkdns.daemon.worker.worker import run_worker
    from zkdns.transport.event_loop import ServingLoop

    main({"worker": run_worker}, ServingLoop)
