"""A tree of secondaries on separate machines: it survives the loss of its middle, its root and ZooKeeper."""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import dns.edns
import dns.message
import dns.query
import dns.rcode
import pytest

from tests.scenarios.test_agreement import digests_of
from tests.support.network import Lan, Network
from tests.support.server import ZkdnsServer
from tests.support.udp_query import query_udp
from tests.support.waiting import PATIENCE, eventually
from tests.support.zookeeper import ZooKeeperServer
from tests.support.zookeeper_clients import client_of

pytestmark = pytest.mark.processes

PORT = 5300
SERVICES = {"web": "/discovery/staging/web", "db": "/discovery/prod/db"}
NAMES = {"web": "web.staging.discovery", "db": "db.prod.discovery"}
HOSTS = {"root": 1, "middle": 2, "other": 3, "leaf": 4, "second": 5}
"""Host numbers. The second leaf has both middles as primaries, the first one only `middle`."""
PRIMARIES = {"middle": ["root"], "other": ["root"], "leaf": ["middle"], "second": ["middle", "other"]}


class Machine:
    """A machine of the tree, on which zkdns runs. Its clients query it at 127.0.0.1.

    Args:
        name: as in `HOSTS`.
        network: its network.
        directory: for its files.
        zookeeper: the address of ZooKeeper, at the root only.
    """

    def __init__(self, name: str, network: Network, directory: Path, zookeeper: str = "") -> None:
        self.name, self.network = name, network
        notified = [address(other) for other, primaries in PRIMARIES.items() if name in primaries]
        config = directory / f"{name}.toml"
        config.write_text(f'[transfer]\nallow = ["10.9.0.0/24"]\nnotify = {notified}\n' if notified else "")
        source = ["--zookeeper", zookeeper]
        if not zookeeper:
            source = ["--primary-refresh", "1"]
            for primary in PRIMARIES[name]:
                source += ["--primary", address(primary)]
        self._arguments = ("--config", str(config), "--listen", f"0.0.0.0:{PORT}", *source)
        self.server: ZkdnsServer

    def start(self) -> None:
        """Run zkdns, and wait until it answers. It may have run before."""
        self.server = ZkdnsServer(*self._arguments)
        with self.network.entered():
            self.server.__enter__()
        self.server.wait_ready(PATIENCE)

    def query(self, name: str) -> dns.message.Message:
        """Query zkdns as a client of this machine does."""
        with self.network.entered():
            message = dns.message.make_query(name, "A", use_edns=0)
            return query_udp(message, "127.0.0.1", PORT)

    def lookup(self, service: str) -> set[str]:
        """The addresses of a service."""
        return addresses_of(self.query(NAMES[service]))

    @property
    def is_stale(self) -> bool:
        return any(
            option.otype == dns.edns.OptionType.EDE and option.code == dns.edns.EDECode.STALE_ANSWER
            for option in self.query(NAMES["web"]).options
        )


def address(name: str) -> str:
    return f"10.9.0.{HOSTS[name]}:{PORT}"


def addresses_of(response: dns.message.Message) -> set[str]:
    return {str(record) for rrset in response.answer for record in rrset}


class Clients:
    """A client on each of these machines, which queries both services without a pause and checks each answer.

    Args:
        machines: those of the clients.
        always: the members of each service that every answer must have.

    Attributes:
        answered: the numbers of good answers by machine.
        bad: all other answers.
    """

    def __init__(self, machines: Sequence[Machine], always: Mapping[str, set[str]]) -> None:
        self.answered: Counter[str] = Counter()
        self.bad: dict[str, list[str]] = defaultdict(list)
        self._always = always
        self._has_ended = threading.Event()
        self._threads = [threading.Thread(target=self._query, args=(machine,)) for machine in machines]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._has_ended.set()
        for thread in self._threads:
            thread.join()

    def _query(self, machine: Machine) -> None:
        while not self._has_ended.wait(0.02):
            for service, members in self._always.items():
                response = machine.query(NAMES[service])
                if response.rcode() == dns.rcode.NOERROR and members <= addresses_of(response):
                    self.answered[machine.name] += 1
                else:
                    self.bad[machine.name].append(str(response))


class Tree:
    """All machines, and the ZooKeeper on the root."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.lan = Lan(stack)
        networks = {name: self.lan.add(host) for name, host in HOSTS.items()}
        self._root = networks["root"]
        with self._root.entered():
            self.zookeeper = stack.enter_context(ZooKeeperServer())
        for number in range(3):
            self.join("web", f"10.0.0.{number}")
            self.join("db", f"10.1.0.{number}")
        self.machines = {
            name: Machine(name, network, directory, self.zookeeper.address if name == "root" else "")
            for name, network in networks.items()
        }
        stack.callback(self._end)
        with ThreadPoolExecutor() as pool:  # their starts take processor time, and some wait for others
            list(pool.map(Machine.start, self.machines.values()))

    def _end(self) -> None:
        for machine in self.machines.values():
            machine.server.__exit__()

    def join(self, service: str, host: str) -> None:
        """Add a member."""
        data = {"serviceEndpoint": {"host": host, "port": 80}, "status": "ALIVE"}
        with self._root.entered(), client_of(self.zookeeper.address) as client:
            client.create(
                f"{SERVICES[service]}/member_", json.dumps(data).encode(), sequence=True, makepath=True
            )

    def start_zookeeper(self) -> None:
        with self._root.entered():
            self.zookeeper.start()

    def wait_equal(self, web: set[str]) -> None:
        """Wait until no machine is stale, and all answer this and have one digest."""
        for machine in self.machines.values():
            eventually(lambda: machine.lookup("web") == web and not machine.is_stale, PATIENCE)  # noqa: B023 - called in this iteration
        servers = [machine.server for machine in self.machines.values()]
        eventually(lambda: len(set().union(*map(digests_of, servers))) == 1, PATIENCE)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    with ExitStack() as stack:
        yield Tree(tmp_path, stack)


def test_no_loss_empties_an_answer_and_all_are_equal_afterwards(tree: Tree) -> None:
    """The link of a middle, the process of the other one, the link of the root, and then ZooKeeper."""
    machines = tree.machines
    web = {f"10.0.0.{number}" for number in range(3)}
    always = {"web": set(web), "db": {f"10.1.0.{number}" for number in range(3)}}
    tree.wait_equal(web)
    with Clients([machines[name] for name in HOSTS if name != "other"], always) as clients:
        tree.lan.set_link(HOSTS["middle"], "down")
        tree.join("web", "10.0.0.7")
        eventually(lambda: machines["second"].lookup("web") == {*web, "10.0.0.7"}, PATIENCE)
        assert machines["leaf"].lookup("web") == web
        machines["other"].server.__exit__()
        tree.lan.set_link(HOSTS["root"], "down")
        tree.join("web", "10.0.0.8")
        eventually(lambda: machines["root"].lookup("web") == {*web, "10.0.0.7", "10.0.0.8"}, PATIENCE)
        tree.zookeeper.kill()
        for name in ("root", "middle", "leaf", "second"):
            eventually(lambda: machines[name].is_stale, PATIENCE)  # noqa: B023 - called in this iteration
        assert machines["leaf"].lookup("web") == web
        assert machines["second"].lookup("web") == {*web, "10.0.0.7"}

        tree.start_zookeeper()
        tree.lan.set_link(HOSTS["root"], "up")
        tree.lan.set_link(HOSTS["middle"], "up")
        machines["other"].start()
        tree.wait_equal({*web, "10.0.0.7", "10.0.0.8"})
    assert not clients.bad
    assert min(clients.answered.values()) > 100
