"""DNS without I/O: queries in, responses out.

    message ──▶ wire.parse_query ──▶ Responder.respond ──▶ Zone.find ──▶ records ──▶ wire.Response.pack
                     │ refused             │ not ours: REFUSED      │ no such name: NXDOMAIN
                     ▼                     ▼                        ▼

A response is a function of the query, the table, and whose turn it is. Never here: sockets, asyncio, clocks.
"""
