"""`FixedSet`: a server set without ZooKeeper, for tests, development and static endpoints."""

from __future__ import annotations

from collections.abc import Iterable

from zkdns.address import HostPort, parse_host_port
from zkdns.errors import ClosedError
from zkdns.serverset.member import Endpoint, Member, canonical_host
from zkdns.serverset.watch import Watch

__all__ = ["FixedSet"]


class FixedSet(Watch):
    """A watch whose endpoints change only through `set_endpoints`.

        balancer = RoundRobin(FixedSet(["10.0.0.1:8080", "10.0.0.2:8080"]))

    Args:
        endpoints: `host:port` each, IPv6 as `[address]:port`.

    Raises:
        BadValueError: an invalid endpoint.
    """

    def __init__(self, endpoints: Iterable[str] = ()) -> None:
        super().__init__()
        self.set_endpoints(endpoints)

    def set_endpoints(self, endpoints: Iterable[str]) -> None:
        """Replace the endpoints.

        Raises:
            BadValueError: an invalid endpoint. Nothing has changed then.
            ClosedError: the set is closed.
        """
        members = [_member(index, text) for index, text in enumerate(endpoints)]
        if self.is_closed:
            raise ClosedError("the fixed set is closed; its endpoints cannot be replaced")
        self._publish(members)


def _member(index: int, text: str) -> Member:
    address = parse_host_port(text)
    endpoint = Endpoint(canonical_host(address.host), address.port)
    written = text.strip()
    is_canonical = written == str(HostPort(endpoint.host, endpoint.port))
    return Member(f"m{index}", endpoint, written=None if is_canonical else written)
