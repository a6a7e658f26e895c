"""A server with a configuration file that a test rewrites, and checks of responses during reloads."""

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
    """A server with one static service and a configuration file that can be rewritten."""

    def __init__(self, directory: Path, *arguments: str, **settings: object) -> None:
        self.file = directory / "zkdns.toml"
        self.services = directory / "services.toml"
        self.services.write_text(
            f'[services."web.staging"]\nmembers = {[f"{host}:80" for host in MEMBERS]}\n'
        )
        self.write(**settings)
        super().__init__("--config", str(self.file), *arguments)
        # Environment variables override the file, so settings that tests change must not be variables.
        for variable in ("ZKDNS_LISTEN", "ZKDNS_ADMIN", "ZKDNS_LOG_LEVEL"):
            del self.environment[variable]

    def write(self, **settings: object) -> None:
        """Write the configuration file; a section is a dictionary, and None omits a setting.

        Other settings have the defaults below.
        """
        complete = {
            "static": str(self.services),
            "listen": ["127.0.0.1:0"],
            "admin": {"listen": "127.0.0.1:0"},
            "order": "fixed",
            "log": {"level": "debug"},
            **settings,
        }
        lines = [f"{key} = {_toml(value)}\n" for key, value in complete.items() if value is not None]
        self.write_text("".join(lines))

    def write_text(self, text: str) -> None:
        """Replace the file atomically."""
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.file)

    def send_sighup(self) -> None:
        """Send SIGHUP, which requests a reload."""
        self.process.send_signal(signal.SIGHUP)

    def reload(self) -> dict[str, object]:
        """Send SIGHUP, and wait until the new configuration is active; return its log entry."""
        before = len(self.events(RELOADED))
        self.send_sighup()
        return eventually(lambda: self.events(RELOADED)[before:], timeout=40.0)[0]

    def processes(self, role: str) -> set[int]:
        """The process IDs of the current processes with this role."""
        return {pid for pid, each in children(self).items() if each == role}

    def wait_for_processes(self, workers: int = 1) -> None:
        """Wait until the processes of the previous configuration have ended."""
        wanted = ["watcher"] + ["worker"] * workers
        eventually(lambda: sorted(children(self).values()) == wanted, timeout=30.0)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')


def ttl_and_addresses(message: dns.message.Message) -> tuple[int, tuple[str, ...]]:
    """The TTL and the addresses, in order, of a NOERROR response."""
    assert message.rcode() == dns.rcode.NOERROR
    (rrset,) = message.answer
    return rrset.ttl, tuple(str(record) for record in rrset)


def distinct_answers(load: SteadyLoad) -> set[tuple[int, tuple[str, ...]]]:
    """Check that no query was lost, and return the different TTLs and addresses of the responses."""
    assert (load.lost, load.failures) == (0, [])
    # Most of the thousands of responses differ in their ID only.
    contents = {response[2:] for response, _ in load.responses}
    return {ttl_and_addresses(dns.message.from_wire(bytes(2) + content)) for content in contents}


def all_answered_with(load: SteadyLoad, ttls: set[int]) -> bool:
    """Check that no query was lost, and that the responses have exactly these TTLs and all members."""
    found = distinct_answers(load)
    assert {ttl for ttl, _ in found} == ttls
    return all(sorted(addresses) == MEMBERS for _, addresses in found)
