"""Entry point of child processes: `python -m zkdns.daemon ROLE FD`. The supervisor runs it.

Each role imports only its own modules: a worker starts faster without kazoo.
"""

import sys

# structlog imports rich, if it is installed, for a traceback format that is not used here. That would take a
# quarter of a process's start-up time. None makes the import fail.
sys.modules["rich"] = None  # type: ignore[assignment]

from zkdns.daemon.ipc.child import main  # noqa: E402

if sys.argv[1] == "watcher":
    from zkdns.daemon.watcher.watcher import run_watcher

    main({"watcher": run_watcher})
elif sys.argv[1] == "transfer":
    from zkdns.daemon.transfer.transfer import run_transfer

    main({"transfer": run_transfer})
else:
    from zkdns.daemon.worker.worker import run_worker
    from zkdns.transport.event_loop import ServingLoop

    main({"worker": run_worker}, ServingLoop)
