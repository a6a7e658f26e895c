"""Forwarding: whatever is none of our zones is asked of others, and remembered as long as they say."""
