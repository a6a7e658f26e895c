"""A server whose configuration is a file that a test writes again, and what its askers may have got."""

import signal
from pathlib import Path

import dns.message
import dns.rcode

from tests.daemon.processes import children
from tests.support.server import ZkdnsServer
from tests.support.steady_load import SteadyLoad
from tests.support.waiting import eventually

WEB = "web.staging.discovery"
MEMBERS = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
RELOADED = "configuration_reloaded"
REFUSED = "reload_refused"


class ReloadableServer(ZkdnsServer):
    """A server of one fixed service whose configuration can be written again."""

    def __init__(self, directory: Path, *arguments: str, **settings: object) -> None:
        self.file = directory / "zkdns.toml"
        self.services = directory / "services.toml"
        self.services.write_text(f'[services."web.staging"]\nmembers = {[f"{one}:80" for one in MEMBERS]}\n')
        self.write(**settings)
        super().__init__("--config", str(self.file), *arguments)
        # What a test changes is no variable, which would go before the file.
        for variable in ("ZKDNS_LISTEN", "ZKDNS_ADMIN", "ZKDNS_LOG_LEVEL"):
            del self.environment[variable]

    def write(self, **settings: object) -> None:
        """Write the whole configuration; a section is a dictionary.

        Settings that are not given have their defaults, or the values that suit a test.
        """
        given = {
            "static": str(self.services),
            "listen": ["127.0.0.1:0"],
            "admin": {"listen": "127.0.0.1:0"},
            "order": "fixed",
            "log": {"level": "debug"},
            **settings,
        }
        lines = [f"{key} = {_toml(value)}\n" for key, value in given.items() if value is not None]
        self.write_text("".join(lines))

    def write_text(self, text: str) -> None:
        """Write the file as it stands here, in one moment."""
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.file)

    def send_sighup(self) -> None:
        """SIGHUP."""
        self.process.send_signal(signal.SIGHUP)

    def reload(self) -> dict[str, object]:
        """SIGHUP, and wait until the new configuration is in force; what was logged of that."""
        before = len(self.events(RELOADED))
        self.send_sighup()
        return eventually(lambda: self.events(RELOADED)[before:], timeout=40.0)[0]

    def processes(self, role: str) -> set[int]:
        """The processes of a role that there are now."""
        return {pid for pid, one in children(self).items() if one == role}

    def wait_for_processes(self, workers: int = 1) -> None:
        """Wait until those that finish have."""
        wanted = ["worker"] * workers + ["watcher"]
        eventually(lambda: sorted(children(self).values()) == wanted, timeout=30.0)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')


def answer_of(message: dns.message.Message) -> tuple[int, tuple[str, ...]]:
    """TTL and addresses in their order, of a good answer."""
    assert message.rcode() == dns.rcode.NOERROR
    (rrset,) = message.answer
    return rrset.ttl, tuple(str(record) for record in rrset)


def all_answered_with(load: SteadyLoad, ttls: set[int]) -> bool:
    """Whether everybody was answered, by a configuration that was in force."""
    assert (load.lost, load.failures) == (0, []), (load.lost, load.failures)
    found = {answer_of(message) for message in load.messages}
    assert {ttl for ttl, _ in found} == ttls
    return all(sorted(addresses) == MEMBERS for _, addresses in found)
