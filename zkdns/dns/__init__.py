"""DNS without I/O: queries in, responses out.

    query ──▶ ResponseCache ────────────────────── hit ──────────────────────▶ next response of the rotation
               │ miss                                                           ▲
               ▼                                                                │
          Responder.answer: parse_query ──▶ Zone.find ──▶ Node.records ──▶ make_rotation
                             │               └─▶ no such name: NXDOMAIN, no such records: NODATA
                             └─▶ malformed or not supported: an error response

A response is a function of the query, the table and the rotation index. `Authority` connects these parts, and
drops cached responses when the table changes. This package uses no sockets, no asyncio and no clocks.
"""
