"""The admin address: health checks, HTTP API, events and status page. The supervisor provides the data."""
