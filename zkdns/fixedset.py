"""`FixedSet`: a server set without ZooKeeper, for tests, development, and what never moves."""

from __future__ import annotations

from collections.abc import Iterable

from zkdns.address import parse_host_port
from zkdns.serverset.member import Endpoint, Member, canonical_host
from zkdns.serverset.watch import Watch

__all__ = ["FixedSet"]


class FixedSet(Watch):
    """Endpoints that change only by `set_endpoints`; everything else is as with any other watch.

    Args:
        endpoints: `host:port` each, IPv6 as `[address]:port`.

    Raises:
        BadValueError: an endpoint that is none.
    """

    def __init__(self, endpoints: Iterable[str] = ()) -> None:
        super().__init__()
        self.set_endpoints(endpoints)

    def set_endpoints(self, endpoints: Iterable[str]) -> None:
        """Replace the endpoints.

        Raises:
            BadValueError: an endpoint that is none; nothing has changed then.
        """
        self._publish([_member(index, text) for index, text in enumerate(endpoints)])


def _member(index: int, text: str) -> Member:
    address = parse_host_port(text)
    return Member(f"m{index}", Endpoint(canonical_host(address.host), address.port))
