"""Keeps a copy of all server sets of a namespace equal to ZooKeeper, and publishes each difference.

The path of an event (with the recursive watch):

    kazoo's connection thread                       the event loop
    ─────────────────────────                       ──────────────
    kazoo_ext.intercept_events ─▶ event_queue ─────▶ tree_sync.TreeSync._on_watch_event
                                                       │ updates tree.ZnodeTree, submits reads
                                                       ▼
    kazoo_ext.send_request ◀──────────────────────── recursive.RecursiveStrategy.send_pending
        │ response
        └──────────────────────▶ event_queue ─────▶ RecursiveStrategy._on_results
                                                       │ SyncListener.on_children, on_data, on_error
                                                       ▼
                                                     TreeSync ─▶ ZnodeTree ─▶ member.decode_member
                                                       │ when the queue is empty
                                                       ▼
                                                     ZnodeTree.take_changes ─▶ publish(changes)
                                                       │ when no read is outstanding
                                                       ▼
                                                     on_zxid(the highest transaction of the contents)

Each part has one job and owns its own state:

- `tree_sync` connects the parts: it decides what to read after an event or a response, runs the audit and
  reports the state. It is the `SyncListener` of the strategy.
- `strategy` is the interface to ZooKeeper over one connection, with two implementations: `recursive` (one
  recursive watch and batched reads, ZooKeeper 3.6 and later) and `one_shot` (a watch per znode).
- `heartbeat` notices that ZooKeeper has paused. `TreeSync` checks it before it publishes changes.
- `tree` holds the znodes and members that were read, and computes the changes. It does no I/O.
- `event_queue` passes calls from kazoo's threads to the event loop, in order.
"""

from zkdns.serverset.sync.tree_sync import AUDIT_SECONDS, RETRY_SECONDS, SyncState, TreeSync

__all__ = ["AUDIT_SECONDS", "RETRY_SECONDS", "SyncState", "TreeSync"]
