"""The processes, and what passes between them.

    supervisor ──── starts, watches, replaces ────┐
       │ admin HTTP, sockets                      │
       ▼                                          ▼
    watcher ── sync, fixed file, snapshot ══feed══▶ worker (1..N) ── UDP, TCP

Never here: policy.
"""
