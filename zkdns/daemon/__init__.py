"""The processes of a server, and the messages between them.

    supervisor ──── starts, monitors, replaces ───┐
       │ HTTP API, sockets                        │
       ▼                                          ▼
    watcher ── sync, static file, snapshot ══feed══▶ worker (1..N) ── UDP, TCP

No rules of DNS or ZooKeeper here.
"""
