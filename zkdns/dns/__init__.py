"""DNS without I/O: queries in, responses out.

    query ──▶ ResponseCache ───────────────── cached ─────────────────▶ next response of the rotation
               │ missing                                                  ▲
               ▼                                                          │
          Responder.answer ──▶ parse_query ──▶ Zone.find ──▶ RRset ──▶ Rotation
                                │ an error      │ no such name: NXDOMAIN
                                ▼               ▼

A response is a function of the query, the table and the rotation index. `Authority` holds all of them
together, and drops cached responses when the table changes. Sockets, asyncio and clocks are not used here.
"""
