"""Tests one ZooKeeper server with a real session.

Four-letter words (`ruok`, `srvr`) are no substitute: most servers disable them, and they do not test TLS and
the credentials.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NoAuthError, NoNodeError

from zkdns.address import HostPort
from zkdns.serverset.auth import ANONYMOUS, Access
from zkdns.serverset.client import dispose, is_read_only, make_client
from zkdns.serverset.reachability import session_failure
from zkdns.serverset.session import CONNECTION_ERRORS

_DISCONNECT_SECONDS = 2.0


class RootListing(msgspec.Struct, frozen=True):
    """The result of listing one znode."""

    path: str
    children: int | None = None
    """The number of its children. None: it could not be listed."""
    refusal: str | None = None
    """Why it could not be listed."""


class ProbeResult(msgspec.Struct, frozen=True):
    """The outcome of a probe."""

    server: HostPort
    failure: str | None = None
    """Why there was no session. None: there was one."""
    is_read_only: bool = False
    """Whether the server has lost its quorum and serves reads only."""
    missing_chroot: str | None = None
    """The chroot, if it does not exist. None: it exists, or there is none."""
    roots: tuple[RootListing, ...] = ()
    """The listed znodes, in the order requested."""


def probe(
    server: HostPort,
    roots: Sequence[str],
    *,
    session_timeout: float,
    chroot: str = "",
    access: Access = ANONYMOUS,
    seconds: float = 5.0,
) -> ProbeResult:
    """Start a session with one server, list some znodes and end the session.

    Args:
        server: the server's host name or address, and its port.
        roots: the znodes' paths, with the chroot.
        session_timeout: the session timeout to request, in seconds.
        chroot: the chroot of the connect string, such as `/services`. Empty: there is none.
        access: credentials and TLS.
        seconds: how long to wait for the session.
    """
    if failure := session_failure(server, seconds, access.tls, read_only=True):
        return ProbeResult(server, failure)
    client = make_client(str(server), session_timeout=session_timeout, access=access, read_only=True)
    try:
        client.start_async().wait(seconds)
        if not client.connected:
            return ProbeResult(
                server,
                f"starts no session within {seconds:g} s: it refuses the credentials, or lost its quorum",
            )
        is_without_quorum = is_read_only(client)
        if chroot and client.exists_async(chroot).get(timeout=seconds) is None:
            return ProbeResult(server, is_read_only=is_without_quorum, missing_chroot=chroot)
        listed = tuple(_list(client, root, seconds) for root in roots)
        return ProbeResult(server, is_read_only=is_without_quorum, roots=listed)
    except (KazooException, *CONNECTION_ERRORS) as error:
        return ProbeResult(server, f"lost the connection: {type(error).__name__} {error}".strip())
    finally:
        dispose(client).join(_DISCONNECT_SECONDS)


def _list(client: KazooClient, root: str, seconds: float) -> RootListing:
    try:
        return RootListing(root, len(client.get_children_async(root).get(timeout=seconds)))
    except NoNodeError:
        return RootListing(root, refusal="does not exist")
    except NoAuthError:
        return RootListing(root, refusal="may not be listed: its ACL denies it")
