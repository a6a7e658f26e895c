"""Balancers: choose one of a set's endpoints while the set changes. They work with any `EndpointSource`.

A balancer checks its source at each choice. So it has no background work and needs no `close`. This package
uses no DNS, ZooKeeper, sockets or threads. `balancer` is the base class, `ring` the consistent hashing of
`zkdns.mcset`.
"""

from zkdns.balance.balancer import Balancer
from zkdns.balance.least_request import LeastRequest
from zkdns.balance.round_robin import RoundRobin
from zkdns.errors import NoEndpointsError

__all__ = ["Balancer", "LeastRequest", "NoEndpointsError", "RoundRobin"]
