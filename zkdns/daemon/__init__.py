"""The processes of a server, and the messages between them.

    supervisor ──── starts, monitors, replaces ───┐
       │ HTTP API, sockets                        │
       ▼                                          ▼
    watcher ── sync, static file, snapshot ══feed══▶ worker (1..N) ── UDP, TCP

This package connects the parts: the rules of DNS are in `zkdns.dns`, those of ZooKeeper in `zkdns.serverset`.
"""
