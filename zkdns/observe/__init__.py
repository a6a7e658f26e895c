"""What people and machines are told of the server. Never here: decisions."""
