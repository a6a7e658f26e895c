"""Sockets, UDP batches, TCP connections, access control and the event loop.

    client ──▶ socket ──▶ [access control] ──▶ lookup[query] ──▶ next() ──▶ socket ──▶ client
                               │ refused or rate-limited
                               └──▶ an error response

Queries and responses are opaque bytes here, except for their lengths and ids. `contract` defines the
interface to the component that makes responses.
"""
