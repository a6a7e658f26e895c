"""The places at which the HTTP API is served: the admin address and the Unix socket."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

import structlog

from zkdns.address import HostPort
from zkdns.admin.server import AdminServer
from zkdns.config import Config
from zkdns.config.model import AdminSettings
from zkdns.errors import BadValueError, ListenError
from zkdns.transport.tls import Tls

log = structlog.get_logger("zkdns.supervisor")

Place: TypeAlias = Literal["address", "socket"]
PLACES: Final[tuple[Place, ...]] = ("address", "socket")
_NONE: Mapping[Place, AdminServer] = MappingProxyType({})


def bind_http(
    config: Config, places: Iterable[Place], bound_before: Mapping[Place, AdminServer] = _NONE
) -> dict[Place, AdminServer]:
    """Bind the configured ones of these places.

    A Unix socket that cannot be bound is logged, so that a second server starts although its default path is
    in use.

    Args:
        config: the configuration.
        places: the places.
        bound_before: the servers so far. With other TLS settings at an unchanged address, its socket is used.

    Raises:
        ListenError: the admin address cannot be bound, or its certificate cannot be used.
    """
    bound: dict[Place, AdminServer] = {}
    wanted = set(places)
    if "address" in wanted and config.admin.listen is not None:
        bound["address"] = _bind_address(config.admin, config.admin.listen, bound_before.get("address"))
    if "socket" in wanted and config.admin.socket is not None:
        try:
            bound["socket"] = AdminServer(Path(config.admin.socket))
        except ListenError as error:
            log.warning("admin_socket_failed", path=config.admin.socket, reason=str(error))
    return bound


def _bind_address(admin: AdminSettings, address: HostPort, before: AdminServer | None) -> AdminServer:
    try:
        tls = Tls(admin.certificate, admin.key) if admin.certificate is not None else None
    except BadValueError as error:
        raise ListenError(f"{admin.certificate}: {error}") from None
    if before is not None and before.address == address:
        return before.with_tls(address, tls)
    return AdminServer(address, tls=tls)


def moved_places(old: Config, new: Config) -> tuple[Place, ...]:
    """Return the places that differ between two configurations."""
    moved: list[Place] = []
    if _address_settings(new.admin) != _address_settings(old.admin):
        moved.append("address")
    if new.admin.socket != old.admin.socket:
        moved.append("socket")
    return tuple(moved)


def _address_settings(admin: AdminSettings) -> tuple[object, ...]:
    return admin.listen, admin.certificate, admin.key
