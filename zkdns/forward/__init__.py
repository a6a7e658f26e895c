"""Forwarding of queries for names outside the zones. `forwarder` describes the path of a query."""
