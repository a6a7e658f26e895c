"""Balancers: choose one of a set's endpoints while the set changes. They work with any `EndpointSource`.

Never here: DNS, ZooKeeper, sockets, threads. A balancer has no background work and needs no `close`: it
checks its source at each choice.
"""

from zkdns.balance.balancer import Balancer
from zkdns.balance.least_request import LeastRequest
from zkdns.balance.round_robin import RoundRobin
from zkdns.errors import NoEndpointsError

__all__ = ["Balancer", "LeastRequest", "NoEndpointsError", "RoundRobin"]
