"""The container image of Dockerfile: its metadata and files, and a server in a container."""

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

_UID = 65532
_MAX_ADDED_BYTES = 40_000_000  # of zkdns and its libraries, without the base image
_SERVICES = '[services."web.staging"]\nmembers = ["10.0.0.1:8080"]\n'


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with built_image() as built:
        (built.files / "etc/zkdns/services.toml").write_text(_SERVICES)
        (built.files / "etc/zkdns/zkdns.toml").write_text('static = "services.toml"\nlog.format = "json"\n')
        yield built


@pytest.fixture
def network() -> Iterator[Network]:
    """A network namespace in which unprivileged users may bind all ports, as in docker and podman."""
    with new_network() as own, own.entered():
        Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")
        yield own


def ask(name: str) -> list[str]:
    command = ["dig", "@127.0.0.1", name, "+short", "+tries=1", "+time=1"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=5).stdout.split()


def run(image: Image, *program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(image.command(*program), check=False, capture_output=True, text=True, timeout=30)


def test_the_metadata_has_user_ports_volume_command_and_version(image: Image) -> None:
    config = image.config
    assert config["User"] == f"{_UID}:{_UID}"
    assert set(config["ExposedPorts"]) == {"53/udp", "53/tcp", "9153/tcp"}
    assert set(config["Volumes"]) == {"/var/lib/zkdns"}
    assert (config["Entrypoint"], config["Cmd"]) == (["zkdns"], ["serve"])
    assert config["Cmd"][0] in main.list_commands(main.make_context("zkdns", ["x"]))
    assert getattr(signal, config["StopSignal"]) == signal.SIGTERM
    assert config["Labels"]["org.opencontainers.image.version"] == zkdns.__version__


def test_the_image_has_the_program_and_no_build_files(image: Image) -> None:
    files = image.files
    own = files / "opt/zkdns"
    size = sum(file.stat().st_size for file in own.rglob("*") if file.is_file() and not file.is_symlink())
    print(f"zkdns and its libraries add {size / 1e6:.1f} MB")
    assert size < _MAX_ADDED_BYTES
    assert not [left for left in ("src", "pip", "root/.cache", "tests") if (files / left).exists()]
    assert not [
        *own.rglob("pip"),
        *files.glob("var/lib/apt/lists/*_*"),
        *files.glob("usr/lib/python3*/ensurepip"),
    ]
    compiled = {file.name.partition(".")[0] for file in own.rglob("zkdns/cli/__pycache__/*.pyc")}
    assert {"serve", "lookup"} <= compiled  # the server cannot write there, so each start would compile again
    assert run(image, "zkdns", "--version").stdout == f"zkdns, version {zkdns.__version__}\n"
    demo = run(image, "env", "ZKDNS_CONFIG=", "zkdns", "check", "--demo").stdout
    assert demo == "valid: discovery from the built-in example, at 0.0.0.0:53\n"
    for directory, is_writable in (("/var/lib/zkdns", True), ("/run/zkdns", True), ("/opt/zkdns", False)):
        assert (run(image, "sh", "-c", f"echo > {directory}/file").returncode == 0) == is_writable, directory


@pytest.mark.usefixtures("network")
def test_a_container_serves_without_root_and_stops_in_time(image: Image, tmp_path: Path) -> None:
    with Container(image, tmp_path / "log") as container:
        try:
            eventually(lambda: ask("web.staging.discovery") == ["10.0.0.1"], 20.0)
        except AssertionError as error:
            error.add_note(container.log)
            raise
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{container.pid}/status").read_text().splitlines()
        )
        assert set(status["Uid"].split()) == set(status["Gid"].split()) == {str(_UID)}
        assert int(status["CapEff"], 16) == 0
        assert status["NSpid"].split()[-1] == "1"
        assert run(image, *image.health).returncode == 0
        file = image.files / "etc/zkdns/zkdns.toml"
        valid = file.read_text()
        file.write_text("invalid")  # a reload would reject it; the running server is not affected
        assert run(image, *image.health).returncode == 0
        file.write_text(valid)
        # Commands inside the container reach the server, as with `docker exec`.
        assert "no members are held" in run(image, "zkdns", "accept", "--all").stderr
        assert container.stop(signal.SIGTERM, 5.0) == 0


@pytest.mark.usefixtures("network")
def test_the_health_check_fails_without_a_server(image: Image) -> None:
    assert run(image, *image.health).returncode == 1
