"""`zkdns setup`: find out which program manages name resolution, plan the changes, apply and undo them."""
