"""The image of Dockerfile: what it is made of, and that its server serves, tells its health and ends."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import zkdns
from tests.support.image import Container, Image, built_image
from tests.support.network import Network, new_network
from tests.support.waiting import eventually
from zkdns.cli import main

pytestmark = pytest.mark.processes

_NOBODY = 65532
_MOST = 40_000_000  # bytes that zkdns and its libraries add to the base
_SERVICES = '[services."web.staging"]\nmembers = ["10.0.0.1:8080"]\n'


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with built_image() as built:
        (built.files / "etc/zkdns/services.toml").write_text(_SERVICES)
        (built.files / "etc/zkdns/zkdns.toml").write_text('static = "services.toml"\nlog.format = "json"\n')
        yield built


@pytest.fixture
def network() -> Iterator[Network]:
    """A container's own network, where docker and podman let everybody have every port."""
    with new_network() as own, own.entered():
        Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")
        yield own


def ask(name: str) -> list[str]:
    command = ["dig", "@127.0.0.1", name, "+short", "+tries=1", "+time=1"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=5).stdout.split()


def run(image: Image, *program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(image.command(*program), check=False, capture_output=True, text=True, timeout=30)


def test_it_says_what_it_is_and_needs(image: Image) -> None:
    config = image.config
    assert config["User"] == f"{_NOBODY}:{_NOBODY}"
    assert set(config["ExposedPorts"]) == {"53/udp", "53/tcp", "9153/tcp"}
    assert set(config["Volumes"]) == {"/var/lib/zkdns"}
    assert (config["Entrypoint"], config["Cmd"]) == (["zkdns"], ["serve"])
    assert config["Cmd"][0] in main.list_commands(main.make_context("zkdns", ["x"]))
    assert getattr(signal, config["StopSignal"]) == signal.SIGTERM
    assert config["Labels"]["org.opencontainers.image.version"] == zkdns.__version__


def test_it_holds_what_it_runs_with_and_nothing_else(image: Image) -> None:
    files = image.files
    own = files / "opt/zkdns"
    size = sum(file.stat().st_size for file in own.rglob("*") if file.is_file() and not file.is_symlink())
    print(f"zkdns and its libraries add {size / 1e6:.1f} MB")
    assert size < _MOST
    assert not [left for left in ("src", "pip", "root/.cache", "tests") if (files / left).exists()]
    assert not [
        *own.rglob("pip"),
        *files.glob("var/lib/apt/lists/*_*"),
        *files.glob("usr/lib/python3*/ensurepip"),
    ]
    compiled = {file.name.partition(".")[0] for file in own.rglob("zkdns/cli/__pycache__/*.pyc")}
    assert {"serve", "lookup"} <= compiled  # or each start would compile anew, since nobody may write there
    assert run(image, "zkdns", "--version").stdout == f"zkdns, version {zkdns.__version__}\n"
    demo = run(image, "env", "ZKDNS_CONFIG=", "zkdns", "check", "--demo").stdout
    assert demo == "valid: discovery from the built-in example, at 0.0.0.0:53\n"
    for place, is_its_own in (("/var/lib/zkdns", True), ("/run/zkdns", True), ("/opt/zkdns", False)):
        assert (run(image, "sh", "-c", f"echo > {place}/file").returncode == 0) == is_its_own, place


@pytest.mark.usefixtures("network")
def test_its_server_serves_without_being_root_and_ends_in_time(image: Image, tmp_path: Path) -> None:
    with Container(image, tmp_path / "log") as container:
        try:
            eventually(lambda: ask("web.staging.discovery") == ["10.0.0.1"], 20.0)
        except AssertionError as error:
            error.add_note(container.log)
            raise
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{container.pid}/status").read_text().splitlines()
        )
        assert set(status["Uid"].split()) == set(status["Gid"].split()) == {str(_NOBODY)}
        assert int(status["CapEff"], 16) == 0
        assert status["NSpid"].split()[-1] == "1"
        assert run(image, *image.health).returncode == 0
        file = image.files / "etc/zkdns/zkdns.toml"
        right = file.read_text()
        file.write_text("a mistake")  # a reload would refuse it, and the server goes on
        assert run(image, *image.health).returncode == 0
        file.write_text(right)
        # Commands reach it from inside, as by `docker exec`.
        assert "no members are held" in run(image, "zkdns", "accept", "--all").stderr
        assert container.stop(signal.SIGTERM, 5.0) == 0


@pytest.mark.usefixtures("network")
def test_who_does_not_answer_is_not_healthy(image: Image) -> None:
    assert run(image, *image.health).returncode == 1
