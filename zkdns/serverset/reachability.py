"""Says why ZooKeeper cannot be reached: the cause for each server, which kazoo does not report."""

from __future__ import annotations

import socket
import threading
import time

from zkdns.address import HostPort, parse_servers
from zkdns.errors import UnreachableError

_SECONDS = 1.0
"""Time limit for all servers together. Most causes show at once."""
NO_ADDRESSES = frozenset(
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
)
"""Errors of getaddrinfo(3) that mean that a name has no addresses. All others mean that the lookup failed."""


def unreachable_error(action: str, hosts: str, advice: str = "") -> UnreachableError:
    """The error for an action that failed because ZooKeeper was not reached. It names the causes.

    Blocks for at most a second.

    Args:
        action: completes the sentence `cannot …`.
        hosts: `host:port,host:port/chroot`.
        advice: follows the sentence, for instance ` (--wait keeps trying)`.
    """
    return UnreachableError(
        f"cannot {action}: ZooKeeper at {hosts} cannot be reached: {describe_failures(hosts)}{advice}"
    )


def describe_failures(hosts: str) -> str:
    """Why no server gives a session: `no such host`, with several `a:2181: no such host; b:2181: …`.

    Blocks for at most a second.
    """
    servers = parse_servers(hosts)
    reasons: dict[HostPort, str] = {}

    def work(server: HostPort) -> None:
        reasons[server] = connect_failure(server, _SECONDS) or (
            "it accepts connections, but starts no session: it is starting, has no quorum, "
            "or requires TLS or other credentials"
        )

    threads = [threading.Thread(target=work, args=(server,), daemon=True) for server in servers]
    deadline = time.monotonic() + _SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    found = {server: reasons.get(server, f"no response within {_SECONDS:g} s") for server in servers}
    if len(found) == 1:
        return next(iter(found.values()))
    return "; ".join(f"{server}: {reason}" for server, reason in found.items())


def connect_failure(server: HostPort, seconds: float) -> str | None:
    """Why a TCP connection fails: `no such host`, `connection refused`. None: it succeeds."""
    try:
        infos = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in NO_ADDRESSES:
            return "no such host"
        return f"its host name cannot be resolved now ({error.strerror})"
    except (OSError, UnicodeError) as error:
        return f"its host name cannot be resolved ({getattr(error, 'strerror', None) or error})"
    reason = ""
    for family, kind, protocol, _, address in infos:
        with socket.socket(family, kind, protocol) as sock:
            sock.settimeout(seconds)
            try:
                sock.connect(address)
            except TimeoutError:
                reason = f"no response within {seconds:g} s"
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
            else:
                return None
    return reason
