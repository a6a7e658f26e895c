"""What commands may ask of a running server, and what it does then."""

from __future__ import annotations

from zkdns.config import Config
from zkdns.daemon.control import Accept, FlushCaches, Flushed, Refused, Request, Response
from zkdns.daemon.feed import Publisher
from zkdns.daemon.guarding import Guarding, accept_losses
from zkdns.errors import BadValueError
from zkdns.names import lower, parse_name, to_text, to_wire


def respond(request: Request, config: Config, guarding: Guarding | None, publisher: Publisher) -> Response:
    """Do what is asked for.

    Args:
        request: what that is.
        config: the server's.
        guarding: what may hold members; None: there is nothing that could.
        publisher: reaches the answerers.
    """
    match request:
        case Accept():
            return accept_losses(request, guarding, publisher.table, config.zones)
        case FlushCaches():
            return _flush(request, config, publisher)


def _flush(request: FlushCaches, config: Config, publisher: Publisher) -> Flushed | Refused:
    """Do what `zkdns flush` asks for."""
    if not config.upstream and not any(domain.upstreams for domain in config.forward.values()):
        return Refused("nothing", "this server forwards nothing, so nothing is cached")
    if request.name is None:
        return Flushed(publisher.flush_caches(None), config.workers)
    try:
        name = lower(parse_name(request.name))
    except BadValueError as error:
        return Refused("mistaken", str(error))
    for zone in config.zones:
        if name[-len(zone) :] == zone:
            return Refused(
                "nothing",
                f"{request.name} lies in the zone {to_text(zone)}, which is never forwarded or cached",
            )
    return Flushed(publisher.flush_caches(to_wire(name) if name else None), config.workers)
