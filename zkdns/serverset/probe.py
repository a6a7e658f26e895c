"""What one server of ZooKeeper says to us: by a session of our own, which is the only true test.

The words of four letters (`ruok`, `srvr`) are forbidden by most servers' settings, and say nothing of us.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

import msgspec
from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NoAuthError, NoNodeError
from kazoo.protocol.states import KeeperState

from zkdns.address import HostPort
from zkdns.serverset.access import ANYBODY, Access
from zkdns.serverset.client import dispose, make_client
from zkdns.serverset.session import AWAY

_DISCONNECT_SECONDS = 2.0


class Root(msgspec.Struct, frozen=True):
    """A znode below which services are looked for."""

    path: str
    children: int | None = None
    """How many znodes are below it; None: it cannot be listed."""
    refusal: str | None = None
    """Why it cannot be listed."""


class Probed(msgspec.Struct, frozen=True):
    """What came of it."""

    server: HostPort
    failure: str | None = None
    """Why there is no session; None: there was one."""
    is_read_only: bool = False
    """Whether it has lost its quorum, and serves readers alone."""
    roots: tuple[Root, ...] = ()
    """What was to be listed, in the order in which it was asked for."""


def probe(
    server: HostPort,
    roots: Sequence[str],
    *,
    session_timeout: float,
    access: Access = ANYBODY,
    seconds: float = 5.0,
) -> Probed:
    """Begin a session with one server, list these znodes, and end it.

    Args:
        server: a host's name or address, and its port.
        roots: znodes' paths, the chroot before each.
        session_timeout: seconds, to be asked for.
        access: who asks.
        seconds: to wait for the session.
    """
    if failure := _unreachable(server, seconds):
        return Probed(server, failure)
    client = make_client(str(server), session_timeout=session_timeout, access=access, read_only=True)
    try:
        client.start_async().wait(seconds)
        if not client.connected:
            return Probed(
                server,
                f"accepts connections, but grants no session within {seconds:g} s: it is no ZooKeeper, has "
                "no quorum, or expects TLS or credentials otherwise",
            )
        is_read_only = client.client_state == KeeperState.CONNECTED_RO
        listed = tuple(_list(client, root, seconds) for root in roots)
        return Probed(server, is_read_only=is_read_only, roots=listed)
    except (KazooException, *AWAY) as error:
        return Probed(server, f"went away: {type(error).__name__} {error}".strip())
    finally:
        dispose(client).join(_DISCONNECT_SECONDS)


def _list(client: KazooClient, root: str, seconds: float) -> Root:
    try:
        return Root(root, len(client.get_children_async(root).get(timeout=seconds)))
    except NoNodeError:
        return Root(root, refusal="does not exist")
    except NoAuthError:
        return Root(root, refusal="may not be listed: its ACL denies it")


def _unreachable(server: HostPort, seconds: float) -> str | None:
    """Why nothing can be said to it; None: it can."""
    try:
        infos = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return f"its name is not found ({getattr(error, 'strerror', None) or error})"
    why = ""
    for family, kind, protocol, _, address in infos:
        with socket.socket(family, kind, protocol) as sock:
            sock.settimeout(seconds)
            try:
                sock.connect(address)
            except TimeoutError:
                why = f"cannot be connected to within {seconds:g} s"
            except OSError as error:
                why = f"cannot be connected to: {error.strerror or error}"
            else:
                return None
    return why
