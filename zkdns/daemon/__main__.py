"""The entry of child processes: `python -m zkdns.daemon ROLE FD`, called by the supervisor alone."""

from zkdns.daemon.answerer import answer
from zkdns.daemon.child import main
from zkdns.daemon.watcher import watch

main({"watcher": watch, "answerer": answer})
