"""Sockets: bound, read, and written to; the bytes are opaque here."""
