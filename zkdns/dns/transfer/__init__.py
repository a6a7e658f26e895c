"""Zone transfers: the records of a zone, its versions, and the messages of AXFR and IXFR. Bytes only, no I/O.

    changed services ──▶ zone_records ──▶ versions (the zone now, and a journal) ──▶ messages
                                                                                        │
                                                request ──▶ tsig ──▶ responder ─────────┴─▶ tsig ──▶ client

A record does not depend on its position in a message. Its owner name ends with a pointer to the question,
whose name is the zone's apex, and every message repeats the question. A zone is therefore a list of byte
strings that a message joins.
"""
