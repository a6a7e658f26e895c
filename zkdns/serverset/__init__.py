"""Finagle-compatible server sets: the library, and the sync of whole trees for the server.

    member, thrift, weights                 members and their encodings
    server_set, registration, ping, checks  registering a member
    watch, set_watch                        watching one set
    awaiting                                coroutines that wait for registrations and watches
    session, client, auth, kazoo_ext, logs  the connection to ZooKeeper through kazoo, and logging
    sync/, changes                          following all sets of a namespace
    kazoo_check                             tests the private parts of the installed kazoo
    listing, probe, znode_stat              single reads for the tools
    static_file                             sets without ZooKeeper

This package uses nothing of `zkdns.dns`.
"""
