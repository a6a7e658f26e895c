"""Zone transfer in: follows a zone of a primary, and turns its records into services and members.

    message ──▶ Inbound ──▶ ZoneCopy ──▶ read_service ──▶ ZoneSet
                   │            │              │
                   │            │              └─ members.py    records of a service become its members
                   │            └─ zone_copy.py   the records of each service; applies incremental transfers
                   └─ inbound.py, records.py   AXFR and IXFR (RFC 5936, RFC 1995)

Any server that serves the zone of a zkdns can be the primary, for instance with the file of `zkdns dump`. The
TXT records carry the members' attributes. Nothing here does I/O; `daemon/watcher/zone_source.py` has the
connections and the timers.
"""
