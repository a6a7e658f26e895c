"""How this machine finds names: who is in charge, how to send it to zkdns and back, and what is wrong.

Never here: answering, and telling people.
"""
