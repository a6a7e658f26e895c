"""`zkdns setup` on a machine with systemd-resolved: the drop-in forwards the zone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.client import MissingProgramError
from tests.clients.environment import IPV4, LINK, WEB
from tests.clients.systemd_resolved import STUB, accounts, runtime_directory, started
from tests.host.trees import everything
from tests.support.network import bind_mount_prefix, ip, new_network, wait_until_up
from tests.support.server import ZkdnsServer

pytestmark = pytest.mark.processes

_QUIET = "[Resolve]\nLLMNR=no\nMulticastDNS=no\n"
_SETUP = (
    sys.executable,
    "-m",
    "zkdns",
    "setup",
    "--listen",
    "127.0.0.1:5300",
    "--search",
    "staging.discovery",
)


@pytest.fixture
def network() -> Iterator[None]:
    with new_network() as created, created.entered():
        ip(f"link add {LINK} type veth peer name far")
        ip(f"link set {LINK} up")
        ip("link set far up")
        ip(f"addr add 203.0.113.1/24 dev {LINK}")
        wait_until_up(LINK)
        yield


def test_drop_in_forwards_the_zone_to_zkdns_until_undo(network: None, tmp_path: Path) -> None:
    del network
    etc, saved, run = tmp_path / "etc", tmp_path / "saved", runtime_directory(tmp_path, _QUIET)
    shutil.copytree("/etc", etc, symlinks=True)
    saved.mkdir()
    for place, file in accounts(tmp_path).items():
        shutil.copy(file, etc / Path(place).name)
    (etc / "nsswitch.conf").write_text("hosts: files dns\n")
    (etc / "resolv.conf").unlink()
    (etc / "resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    prefix = bind_mount_prefix({"/etc": etc, "/var/lib": saved, "/run": run})

    def on_machine(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*prefix, *command], check=False, capture_output=True, text=True, timeout=30)

    def finds(name: str) -> set[str]:
        return {line.split()[0] for line in on_machine("getent", "ahostsv4", name).stdout.splitlines()}

    services = tmp_path / "services.toml"
    services.write_text(f'[services."web.staging"]\nmembers = ["{IPV4[0]}:80", "{IPV4[1]}:80"]\n')
    before = everything(etc)
    try:
        with ZkdnsServer("--static", str(services), "--listen", "127.0.0.1:5300") as server:
            server.wait_ready()
            with started(prefix, tmp_path):
                assert finds(WEB) == set()
                applied = on_machine(*_SETUP, "--admin-socket", server.api, "--apply", "--yes")
                assert "name resolution is managed by systemd-resolved" in applied.stdout
                assert "DNS=127.0.0.1:5300\n" in applied.stdout
            with started(prefix, tmp_path):  # without systemd, the test restarts it
                assert finds(WEB) == finds("web") == set(IPV4)
                doctor = (sys.executable, "-m", "zkdns", "doctor", "--listen", "127.0.0.1:5300")
                diagnosed = on_machine(*doctor, "--static", str(services), "--admin-socket", server.api)
                assert (
                    f"names {STUB} first, which is systemd-resolved, which forwards discovery to zkdns"
                    in diagnosed.stdout
                )
                assert f"end to end: {WEB}: programs on this machine find" in diagnosed.stdout
                again = on_machine(*_SETUP, "--admin-socket", server.api, "--apply", "--yes")
                assert "the files are already up to date" in again.stdout
                assert (again.returncode, f"{WEB}: programs on this machine find" in again.stdout) == (
                    0,
                    True,
                )
                on_machine(*_SETUP[:4], "--undo", "--yes")
            with started(prefix, tmp_path):
                assert finds(WEB) == set()
    except MissingProgramError as missing:
        pytest.skip(str(missing))
    assert everything(etc) == before
    assert everything(saved) == {}
