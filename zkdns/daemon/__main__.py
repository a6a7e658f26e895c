"""The entry of child processes: `python -m zkdns.daemon ROLE FD`, called by the supervisor alone."""

import sys

# structlog would load rich, where that is installed, for tracebacks that are not printed here: a quarter of
# the time that all imports take, at each start of a process that others wait for.
sys.modules["rich"] = None  # type: ignore[assignment]

from zkdns.daemon.answerer import answer  # noqa: E402
from zkdns.daemon.child import main  # noqa: E402
from zkdns.daemon.watcher import watch  # noqa: E402

main({"watcher": watch, "answerer": answer})
