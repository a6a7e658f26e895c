"""`zkdns doctor`: collect facts about this machine and the server, and turn them into findings."""
