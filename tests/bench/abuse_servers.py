"""The servers of the abuse benchmark: zkdns, and Knot or unbound with the same names."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.bench.forwarders import ForwardingUnbound, ForwardingZkdns
from tests.bench.peers import Knot, Zkdns
from tests.bench.processes import find_program
from tests.bench.zone import ENVIRONMENT, ZONE, Service, to_static_file

DEAD_DOMAIN = "dead.example"
"""The domain with a dead upstream."""


class AbusedKnot(Knot):
    """Knot with its own limit for clients that do not read, and with additional records.

    Args:
        services: the services it serves.
        directory: parent of the server's own directory.
        core: the CPU it runs on.
        records: further lines of the zone file.
    """

    tcp_io_timeout = 500

    def __init__(self, services: Sequence[Service], directory: Path, core: int, *, records: str = "") -> None:
        super().__init__(services, directory, core)
        self._records = records

    def records(self) -> str:
        return self._records


class AbusedUnbound(ForwardingUnbound):
    """unbound that forwards one domain to a dead upstream.

    Args:
        services: the services of the live upstream.
        directory: parent of the server's own directory.
        core: the CPU it runs on.
        upstream: port of the live upstream on localhost.
        dead: port of the dead upstream on localhost.
    """

    def __init__(
        self, services: Sequence[Service], directory: Path, core: int, upstream: int, dead: int
    ) -> None:
        super().__init__(services, directory, core, upstream)
        self._dead = dead

    def configure(self) -> list[str]:
        command = super().configure()
        path = Path(command[-1])
        zone = f'forward-zone:\n    name: "{DEAD_DOMAIN}"\n    forward-addr: 127.0.0.1@{self._dead}\n'
        text = path.read_text() + zone
        # Newer versions let only 1,000 queries of one address wait, and all clients here have the same one.
        path.write_text(text + "server:\n    wait-limit: 0\n")
        if not self._is_accepted(path):
            path.write_text(text)
        return command

    def _is_accepted(self, path: Path) -> bool:
        checker = find_program("unbound-checkconf")
        if checker is None:
            return False
        return subprocess.run([checker, path], capture_output=True, check=False).returncode == 0


def forwarding_zkdns(
    services: Sequence[Service], directory: Path, core: int, upstream: int, dead: int
) -> Zkdns:
    """Make a zkdns that forwards one domain to a dead upstream; arguments as for `AbusedUnbound`."""
    config = directory / "zkdns.toml"
    config.write_text(f'[forward.zone."{DEAD_DOMAIN}"]\nupstreams = ["127.0.0.1:{dead}"]\n')
    return ForwardingZkdns(services, directory, core, upstream, arguments=("--config", str(config)))


def serving_zkdns(
    services: Sequence[Service],
    directory: Path,
    core: int,
    *,
    static: str = "",
    arguments: Sequence[str] = (),
) -> Zkdns:
    """Make a zkdns with a static file.

    Args:
        services: the services of the static file.
        directory: parent of the server's own directory.
        core: the CPU of all its processes.
        static: further lines of the static file.
        arguments: more arguments of the command.
    """
    path = directory / "services.toml"
    path.write_text(to_static_file(services) + static)
    return Zkdns(services, directory, core, arguments=("--static", str(path), *arguments))


def endpoint_address(number: int) -> str:
    """The address of the additional endpoint of that number."""
    return f"10.240.{number // 250}.{number % 250 + 1}"


def endpoints_in_static_file(service: str, count: int) -> str:
    """A service with one member that has `count` additional endpoints on different hosts."""
    endpoints = ", ".join(f'e{number} = "{endpoint_address(number)}:9000"' for number in range(count))
    return (
        f'[services."{service}.{ENVIRONMENT}"]\n'
        f'members = [{{ host = "10.239.0.1", port = 8000, additional = {{ {endpoints} }} }}]\n'
    )


def endpoints_in_zone_file(service: str, count: int) -> str:
    """The records of that service; the targets are named after the endpoints."""
    owner = f"{service}.{ENVIRONMENT}.{ZONE}."
    lines = [f"{owner} A 10.239.0.1", f"{owner} SRV 0 100 8000 m0.{owner}", f"m0.{owner} A 10.239.0.1"]
    for number in range(count):
        lines.append(f"_e{number}._tcp.{owner} SRV 0 100 9000 h{number}.{owner}")
        lines.append(f"h{number}.{owner} A {endpoint_address(number)}")
    return "\n".join(lines) + "\n"
