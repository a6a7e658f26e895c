"""Finagle-compatible server sets: members and their codecs, fixed sets, whole-tree sync.

Never here: DNS.
"""
