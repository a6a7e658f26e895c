"""DNS without I/O: queries in, responses out.

    query ──▶ Memo ──────────────────── asked before ─────────────────────▶ the response whose turn it is
               │ not asked before                                             ▲
               ▼                                                              │
          Responder.answer ──▶ parse_query ──▶ Zone.find ──▶ RRset ──▶ Rotation: its rings, turn by turn
                                │ refused       │ no such name: NXDOMAIN
                                ▼               ▼

Outside the zones stand the names of members' addresses, which `Reverse` finds where a setting says so.

A response is a function of the query, the table, and whose turn it is. `Authority` holds all of them
together, and lets the memo forget what a change of the table has made another. Never here: sockets, asyncio,
clocks.
"""
