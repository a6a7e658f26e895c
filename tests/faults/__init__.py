"""Failures of ZooKeeper, the network and zkdns processes; all responses are checked against the history."""
