"""The admin address: health checks, HTTP API, events and status page. Decisions belong to the daemon."""
