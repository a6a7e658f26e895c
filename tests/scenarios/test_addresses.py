"""A machine with several addresses on two links sends each response from the address that received the query.

`dig` runs in another network, and accepts only responses from the queried address.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.network import Network, ip, link_twice, new_network
from tests.support.sandbox import seccomp_prefix
from tests.support.server import ZkdnsServer
from tests.support.upstream import UpstreamServer, is_slow

pytestmark = pytest.mark.processes

IPV4 = ("192.0.0.1", "192.0.0.3", "192.0.1.1", "192.0.1.3")
IPV6 = ("2001:db8::1", "2001:db8::3", "2001:db8:1::1", "2001:db8:1::3")
LINK_LOCAL = ("fe80::1%here", "fe80::3%here", "fe80::1%back", "fe80::3%back")
FAR = {4: "203.0.113.9", 6: "2001:db8:9::9"}
"""Client addresses that are routed over one link, whichever link the query arrives on."""
NEAR = {"here": "2001:db8::2", "back": "2001:db8:1::2"}
"""Client addresses on each link."""

OWN, LONG = "web.staging.discovery", f"{'x' * 60}.{'y' * 60}.staging.discovery"
MEMBER, FORWARDED = "10.0.0.7", "192.0.2.1"
LATE_SECONDS = 0.2
_SECONDS = 60

WILDCARDS = ("0.0.0.0", "[::]")
EACH = (*IPV4, *(f"[{address}]" for address in (*IPV6, *LINK_LOCAL)))


class Networks(NamedTuple):
    """The networks of the server and of the clients."""

    server: Network
    client: Network


@pytest.fixture(scope="module")
def networks() -> Iterator[Networks]:
    if shutil.which("dig") is None:
        pytest.skip("needs dig")
    with new_network() as server, new_network() as client, server.entered():
        link_twice(client)
        for number, link in enumerate(("here", "back")):
            ip(f"address add 192.0.{number}.3/24 dev {link}")
            ip(f"address add 2001:db8:{number}::3/64 dev {link} nodad")
            ip(f"address add fe80::3/64 dev {link} nodad")
        yield Networks(server, client)


def dig_commands(numbers: Iterator[int], tcp: bool) -> Iterator[tuple[list[str], list[str]]]:
    """Commands that query each address from all client addresses, with the expected output."""
    routes: list[tuple[str, str | None]] = [(address, None) for address in (*IPV4, *IPV6, *LINK_LOCAL)]
    routes += [(address, NEAR[address.partition("%")[2]]) for address in LINK_LOCAL]
    routes += [(address, FAR[6 if ":" in address else 4]) for address in (*IPV4, *IPV6)]
    for address, source in routes:
        number = next(numbers)
        questions = [OWN, LONG, f"n{number}.example", f"n{number}.{'x' * 60}.{'y' * 60}.example"]
        options = [f"@{address}", *(("-b", source) if source else ()), "+tcp" if tcp else "+notcp", "+short"]
        yield (
            ["dig", *options, "+time=8", "+tries=1", *questions, OWN, "+padding=512"],
            [MEMBER, MEMBER, FORWARDED, FORWARDED, MEMBER],
        )


def run_all(commands: Sequence[Sequence[str]]) -> list[list[str]]:
    """Run the commands in parallel, and return their output lines."""
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command in commands
    ]
    try:
        return [process.communicate(timeout=_SECONDS)[0].splitlines() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("is_batched", [True, False], ids=["batched", "one by one"])
@pytest.mark.parametrize(
    ("listen", "workers"), [(WILDCARDS, "1"), (EACH, "1"), (EACH, "2")], ids=["wildcards", "each", "shared"]
)
def test_dns_24_responses_are_sent_from_the_queried_address(
    networks: Networks, tmp_path: Path, listen: tuple[str, ...], workers: str, is_batched: bool
) -> None:
    """Immediate and deferred responses; short queries, and queries that exceed a slot of a batch."""
    services = tmp_path / "services.toml"
    names = [name.removesuffix(".discovery") for name in (OWN, LONG)]
    services.write_text("".join(f'[services."{name}"]\nmembers = ["{MEMBER}:80"]\n' for name in names))
    prefix = [] if is_batched else seccomp_prefix("recvmmsg", "sendmmsg")
    numbers = itertools.count()
    with networks.server.entered(), UpstreamServer(is_slow(LATE_SECONDS)) as upstream:
        arguments = [f"--static={services}", f"--workers={workers}", f"--upstream={upstream.address}"]
        arguments += [f"--listen={address}:53" for address in listen]
        arguments += [f"--allow={network}" for network in ("0.0.0.0/0", "::/0")]
        with ZkdnsServer(*arguments, prefix=prefix) as server:
            server.wait_ready()
            with networks.client.entered():
                for tcp in (False, True):
                    commands = list(dig_commands(numbers, tcp))
                    found = run_all([command for command, _ in commands])
                    for (command, expected), lines in zip(commands, found, strict=True):
                        assert lines == expected, command
