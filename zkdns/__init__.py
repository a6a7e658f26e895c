"""zkdns: DNS for the services that ZooKeeper server sets know."""

__version__ = "0.1.0"
