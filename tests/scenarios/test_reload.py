"""Reloading while others ask: each of them gets an answer, of the old configuration or of the new one."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.rcode
import pytest

from tests.daemon.processes import children, is_running, open_files
from tests.support.server import ZkdnsServer
from tests.support.steady_load import SteadyLoad
from tests.support.waiting import eventually

WEB = "web.staging.discovery"
MEMBERS = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
RELOADS = int(os.environ.get("TEST_RELOADS", "12"))
IN_FORCE = "configuration read again, and in force"
REFUSED = "reload refused; the old configuration stays in force"


class Reloadable(ZkdnsServer):
    """A server of one fixed service whose configuration can be written again."""

    def __init__(self, directory: Path, *arguments: str, **settings: object) -> None:
        self.file = directory / "zkdns.toml"
        self.services = directory / "services.toml"
        self.services.write_text(f'[services."web.staging"]\nmembers = {[f"{one}:80" for one in MEMBERS]}\n')
        self.write(**settings)
        super().__init__("--config", str(self.file), *arguments)
        # What a test changes is no variable, which would go before the file.
        for variable in ("ZKDNS_LISTEN", "ZKDNS_ADMIN"):
            del self._environment[variable]

    def write(self, **settings: object) -> None:
        """Write the whole configuration; what is not named has its default, or what suits a test."""
        given = {
            "fixed": str(self.services),
            "listen": ["127.0.0.1:0"],
            "admin": "127.0.0.1:0",
            "order": "fixed",
            **settings,
        }
        self.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in given.items()))

    def write_text(self, text: str) -> None:
        """Write the file as it stands here, in one moment."""
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.file)

    def hang_up(self) -> None:
        """SIGHUP."""
        self.process.send_signal(signal.SIGHUP)

    def reload(self) -> dict[str, object]:
        """SIGHUP, and wait until the new configuration is in force; what was logged of that."""
        before = len(self.events(IN_FORCE))
        self.hang_up()
        return eventually(lambda: self.events(IN_FORCE)[before:], timeout=20.0)[0]

    def processes(self, role: str) -> set[int]:
        """The processes of a role that there are now."""
        return {pid for pid, one in children(self).items() if one == role}

    def settle(self, answerers: int = 1) -> None:
        """Wait until those that finish have."""
        wanted = ["answerer"] * answerers + ["watcher"]
        eventually(lambda: sorted(children(self).values()) == wanted, timeout=15.0)


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Reloadable]:
    with Reloadable(tmp_path, ttl=5) as running:
        yield running.wait_ready()  # type: ignore[misc]  # itself


def answer_of(message: "dns.message.Message") -> tuple[int, tuple[str, ...]]:
    """TTL and addresses in their order, of a good answer."""
    assert message.rcode() == dns.rcode.NOERROR
    (rrset,) = message.answer
    return rrset.ttl, tuple(str(record) for record in rrset)


def is_one_of_both(load: SteadyLoad, ttls: set[int]) -> bool:
    """Whether everybody was answered, by a configuration that was in force."""
    assert (load.lost, load.failures) == (0, [])
    found = {answer_of(message) for message in load.messages}
    assert {ttl for ttl, _ in found} == ttls
    return all(sorted(addresses) == MEMBERS for _, addresses in found)


# -- what comes into force ------------------------------------------------------------------------------------


def test_nobody_goes_without_an_answer_while_configurations_alternate(server: Reloadable) -> None:
    files = len(open_files(server.process.pid))
    with SteadyLoad(server.addresses[0], WEB) as load:
        for number in range(RELOADS):
            order, ttl = ("round-robin", 7) if number % 2 == 0 else ("fixed", 5)
            server.write(ttl=ttl, order=order)
            told = server.reload()
            assert told["changed"] == "ttl order"
            assert told["replaced"] == "answerer"
            assert server.query(WEB).answer[0].ttl in {5, 7}
    server.settle()
    assert is_one_of_both(load, {5, 7})
    assert load.slowest < 1.0
    assert server.query(WEB).answer[0].ttl == 5 if RELOADS % 2 == 0 else 7
    assert len(open_files(server.process.pid)) == files
    assert "Traceback" not in server.log


def test_the_watcher_is_replaced_for_what_it_alone_knows_and_answerers_stay(server: Reloadable) -> None:
    watchers, answerers = server.processes("watcher"), server.processes("answerer")
    with SteadyLoad(server.addresses[0], WEB) as load:
        for seconds in range(20, 25):
            server.write(ttl=5, session_timeout=seconds)
            assert server.reload()["replaced"] == "watcher"
            server.settle()
    assert is_one_of_both(load, {5})
    assert server.processes("answerer") == answerers
    assert not server.processes("watcher") & watchers
    # It is followed: what it reads is answered.
    server.services.write_text('[services."web.staging"]\nmembers = ["10.0.0.9:80"]\n')
    eventually(lambda: server.ask(WEB) == {"10.0.0.9"})


def test_an_answerer_that_is_lost_after_the_watcher_was_replaced_finds_the_new_one(
    server: Reloadable,
) -> None:
    server.write(ttl=5, session_timeout=20)
    server.reload()
    server.settle()
    (pid,) = server.processes("answerer")
    os.kill(pid, signal.SIGKILL)
    assert server.ask(WEB) == set(MEMBERS)
    (watcher,) = server.processes("watcher")
    os.kill(watcher, signal.SIGKILL)
    eventually(lambda: server.processes("watcher") - {watcher})
    server.services.write_text('[services."web.staging"]\nmembers = ["10.0.0.9:80"]\n')
    eventually(lambda: server.ask(WEB) == {"10.0.0.9"})


def test_workers_come_and_go_while_others_ask(server: Reloadable) -> None:
    with SteadyLoad(server.addresses[0], WEB) as load:
        for workers in (3, 2, 4, 1, 3):
            server.write(ttl=5, workers=workers)
            assert server.reload()["changed"] == "workers"
            server.settle(workers)
    assert is_one_of_both(load, {5})
    assert load.slowest < 1.0


def test_where_it_listens_moves_and_nobody_who_has_asked_there_is_forgotten(server: Reloadable) -> None:
    (before,) = server.addresses
    with socket.socket(type=socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with SteadyLoad(before, WEB) as load:
        # What stays is asked by others meanwhile; only the second address is new.
        server.write(ttl=5, listen=["127.0.0.1:0", f"127.0.0.1:{port}"])
        server.reload()
    assert is_one_of_both(load, {5})
    assert server.events("listening")[-1]["address"] == f"127.0.0.1:{port}"
    server.settle()
    server.write(ttl=5, listen=[f"127.0.0.1:{port}"])
    server.reload()
    server.settle()
    with socket.socket(type=socket.SOCK_DGRAM) as taken, socket.socket() as also:
        taken.bind(before)  # nobody has it any more
        also.bind(before)
    assert server.events("listening no more")[-1]["address"] == f"127.0.0.1:{before[1]}"


def test_the_admin_address_moves(server: Reloadable) -> None:
    before = server.events("admin")[0]["address"]
    server.write(ttl=5, admin="127.0.0.2:0")
    assert server.reload()["replaced"] is None
    assert server.events("admin")[-1]["address"].startswith("127.0.0.2:")
    host, port = before.rsplit(":", 1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), 1.0)
