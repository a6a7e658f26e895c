"""The wheel and the sdist: their files, and that they work in environments without the source tree."""

import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

import zkdns
from tests.packaging.conftest import build
from tests.packaging.test_light_install import ROOT
from tests.support.venvs import Venv
from tests.support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.processes

MAN = "zkdns/docs/man"
REGISTER_AND_WATCH = """\
import sys
from zkdns import ServerSet

servers = ServerSet("test", "web", sys.argv[1], namespace=sys.argv[2] + "/{environment}/{service}")
with servers.register("10.0.0.1", 8080), servers.watch() as watch:
    print(watch.endpoints)
"""


def files(*names: str) -> set[str]:
    """The files of the source tree with these names, or in directories with these names."""
    found = set()
    for name in names:
        path = ROOT / name
        found |= {path} if path.is_file() else {file for file in path.rglob("*") if file.is_file()}
    return {str(file.relative_to(ROOT)) for file in found if "__pycache__" not in file.parts}


def test_the_wheel_has_all_files_of_the_package(wheel: Path) -> None:
    metadata = f"zkdns-{zkdns.__version__}.dist-info/"
    data = f"zkdns-{zkdns.__version__}.data/data/share/"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.startswith(metadata)}
        entry_points = archive.read(f"{metadata}entry_points.txt").decode()
    assert {name for name in names if not name.startswith(data)} == files("zkdns") - files(MAN)
    shared = {name.removeprefix(data) for name in names if name.startswith(data)}
    assert shared == {page.removeprefix("zkdns/docs/") for page in files(MAN)} | {
        f"zkdns/{unit}" for unit in files("systemd")
    }
    assert {"zkdns/py.typed", "zkdns/serverset/demo.toml", "zkdns/admin/page/index.html"} < names
    assert "zkdns = zkdns.__main__:main" in entry_points


def test_the_sdist_has_the_source_tree(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {entry.name.partition("/")[2] for entry in archive if entry.isfile()}
    expected = files("zkdns", "systemd", "tests", ".ci", "Dockerfile", ".dockerignore", "README.md")
    assert names == expected | {"pyproject.toml", ".gitignore", "PKG-INFO"}


def test_the_sdist_builds_the_same_wheel(built: Path, wheel: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    build(source, tmp_path / "again")
    assert (tmp_path / "again" / wheel.name).read_bytes() == wheel.read_bytes()
    assert (tmp_path / "again" / sdist.name).read_bytes() == sdist.read_bytes()


def test_the_wheel_works_in_a_fresh_environment(
    wheel: Path, zookeeper: ZooKeeperServer, zk_root: str, tmp_path: Path
) -> None:
    """The library alone, and then with the server."""
    venv = Venv(tmp_path / "venv")
    venv.install(str(wheel))
    assert venv.packages == {"kazoo", "msgspec", "zkdns"}
    done = venv.run("python", "-W", "error", "-c", REGISTER_AND_WATCH, zookeeper.address, zk_root)
    assert (done.stdout, done.stderr) == ("('10.0.0.1:8080',)\n", "")
    done = venv.run("zkdns", "serve", "--demo", check=False)
    assert done.returncode == 5
    assert done.stderr == (
        "zkdns: the command zkdns needs the Python package click, which is not installed: "
        "pip install 'zkdns[server]'\n"
    )

    venv.install(f"{wheel}[server]")
    assert venv.run("zkdns", "--version").stdout == f"zkdns, version {zkdns.__version__}\n"
    assert "architecture" in venv.run("zkdns", "help").stdout
    page = (ROOT / "zkdns/docs/library.md").read_text(encoding="utf-8")
    assert venv.run("zkdns", "help", "library").stdout.strip() == page.strip()
    assert venv.run("zkdns", "check", "--demo", ZKDNS_LISTEN="127.0.0.1:5300").stdout == (
        "valid: discovery from the built-in example, at 127.0.0.1:5300\n"
    )
    for shell in ("bash", "zsh", "fish"):
        assert "zkdns" in venv.run("zkdns", "completion", shell).stdout
    assert (venv.directory / "share/zkdns/systemd/zkdns.service").is_file()
    if shutil.which("man"):  # which searches next to the directories of the PATH
        path = f"{venv.directory}/bin:{os.environ['PATH']}"
        for page in ("man1/zkdns.1", "man5/zkdns.toml.5", "man8/zkdns-serve.8"):
            name = page.partition("/")[2][:-2]
            found = subprocess.run(
                ["man", "-w", name], env={"PATH": path}, capture_output=True, text=True, check=True
            )
            assert found.stdout == f"{venv.directory}/share/man/{page}\n"
