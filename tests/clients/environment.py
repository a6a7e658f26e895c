"""The network, the server and the services for the client tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.network import ip, new_network, wait_until_up
from tests.support.server import ZkdnsServer
from tests.support.web import WebServer

WEB, OLD, MANY, NONE = (f"{service}.staging.discovery" for service in ("web", "old", "many", "none"))
IPV4, IPV6 = ("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")
OLD_IPV4 = ("192.0.2.11", "192.0.2.12")
HUNDRED = tuple(f"198.51.100.{number}" for number in range(1, 101))
PORT = 8080
LINK = "uplink"

_SERVICES = {WEB: (*IPV4, *IPV6), OLD: OLD_IPV4, MANY: HUNDRED}


@dataclass(frozen=True)
class Served:
    """The server, and the port of a web server that listens on the addresses of all members."""

    server: ZkdnsServer
    web_port: int


def srv(name: str) -> tuple[str, ...]:
    """The sorted SRV records of a service, without the final dot."""
    return tuple(sorted(f"0 100 {PORT} m{number}.{name}" for number in range(len(_SERVICES[name]))))


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[Served]:
    """Serve the services on 127.0.0.1:53 in a new network, and move this thread into it.

    The network has a link with addresses of both families. Without them some clients send no queries, or only
    queries for one family (systemd-resolved, and getaddrinfo(3) with AI_ADDRCONFIG).
    """
    services = directory / "services.toml"
    services.write_text(
        "".join(
            f'[services."{name.removesuffix(".discovery")}"]\nmembers = [{", ".join(map(_member, hosts))}]\n'
            for name, hosts in _SERVICES.items()
        )
    )
    with new_network() as network, network.entered():
        ip(f"link add {LINK} type veth peer name far")
        ip(f"link set {LINK} up")
        ip("link set far up")
        ip(f"addr add 203.0.113.1/24 dev {LINK}")
        ip(f"addr add 2001:db8:1::1/64 dev {LINK} nodad")
        for members in ("192.0.2.0/24", "198.51.100.0/24", "2001:db8::/64"):
            ip(f"route add local {members} dev lo")
        wait_until_up(LINK)
        arguments = ("--static", str(services), "--listen", "127.0.0.1:53")
        with WebServer("::") as web, ZkdnsServer(*arguments) as server:
            yield Served(server.wait_ready(), web.server_port)


def _member(host: str) -> str:
    return f'"[{host}]:{PORT}"' if ":" in host else f'"{host}:{PORT}"'
