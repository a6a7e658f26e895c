"""Choosing one of a set's endpoints, while the set changes: plain classes over any `EndpointSource`.

Never here: DNS, ZooKeeper, sockets, threads. A balancer starts nothing and holds nothing that has to be
closed: it looks at its source each time that it chooses.
"""

from zkdns.balance.balancer import Balancer
from zkdns.balance.least_request import LeastRequest
from zkdns.balance.round_robin import RoundRobin
from zkdns.errors import NoEndpointsError

__all__ = ["Balancer", "LeastRequest", "NoEndpointsError", "RoundRobin"]
