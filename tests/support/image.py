"""The image of the Dockerfile, built by buildah and run in namespaces without a container engine."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.process_guard import kill_guarded, start_guarded

ROOT = Path(__file__).parents[2]
BASE = ROOT / ".tests" / "debian.tar"
_BUILD_SECONDS = 300
_FILES = ("cert", "client-cert")
_PIP_SETTINGS = (*_FILES, "index-url", "extra-index-url", "trusted-host", "proxy", "timeout")

# Executes the program with the /proc, /dev, user and environment of a container.
_ENTER = """\
mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" &&
exec chroot --userspec="$1" --groups= "$0" env -i "${@:2}"
"""


class Image:
    """A built image, and a mounted container that is not started.

    Args:
        store: an empty directory for the storage of buildah.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        base = self._buildah("from", "scratch")
        self._buildah("add", "--quiet", base, str(BASE), "/")
        self._buildah("commit", "--quiet", "--rm", base, "localhost/base")
        self.log = self._buildah(
            *("build", "--isolation", "chroot", "--format", "docker", "--build-arg", "BASE=localhost/base"),
            *(f"--volume={volume}:ro" for volume in self._volumes()),
            *("--tag", "localhost/zkdns", str(ROOT)),
        )
        self.config: dict[str, Any] = json.loads(
            self._buildah("inspect", "--type", "image", "localhost/zkdns")
        )["Docker"]["config"]
        self.files = Path(self._buildah("mount", self._buildah("from", "localhost/zkdns")))
        """The root directory of the container."""

    def _buildah(self, *arguments: str) -> str:
        """Run buildah, and return its standard output."""
        places = (
            "--root",
            f"{self._store}/root",
            "--runroot",
            f"{self._store}/run",
            "--storage-driver",
            "vfs",
        )
        ended = subprocess.run(
            ["buildah", *places, *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=_BUILD_SECONDS,
        )
        assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
        return ended.stdout.strip()

    def _volumes(self) -> Iterator[str]:
        """Volumes that give pip the package index settings of this machine, and the files that they name."""
        listed = subprocess.check_output([sys.executable, "-m", "pip", "config", "list"], text=True)
        settings: dict[str, list[str]] = {}
        for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
            name, _, value = line.partition("=")
            # Index directories on the disk of this machine are not mounted in the build.
            words = [word for word in ast.literal_eval(value).split() if not word.startswith("file:")]
            if (key := name.rpartition(".")[2]) in _PIP_SETTINGS and words:
                settings[key] = words
        pip_conf = self._store / "pip.conf"
        lines = [f"{key} = {' '.join(words)}\n" for key, words in settings.items()]
        pip_conf.write_text("".join(["[global]\n", *lines]))
        yield f"{pip_conf}:/etc/pip.conf"
        files = {word for key in _FILES for word in settings.get(key, ())}
        yield from (f"{file}:{file}" for file in files)

    def command(self, *program: str) -> list[str]:
        """The command that runs a program as process 1, with the user and environment of the image."""
        entered = ["bash", "-c", _ENTER, str(self.files), self.config["User"], *self.config["Env"], *program]
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", *entered]

    @property
    def health(self) -> list[str]:
        """The health check command of the image."""
        kind, *words = self.config["Healthcheck"]["Test"]
        return ["/bin/sh", "-c", *words] if kind == "CMD-SHELL" else words


class Container:
    """The running entry point of an image. As a context manager it ends with all its child processes."""

    def __init__(self, image: Image, log: Path) -> None:
        self._log = log
        command = image.command(*image.config["Entrypoint"], *image.config["Cmd"])
        with log.open("wb") as out:
            self._process = start_guarded(command, stdout=out, stderr=out)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        kill_guarded(self._process)

    @property
    def log(self) -> str:
        """The output so far."""
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The process ID of its process 1 outside of the container."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return int(children.split()[-1])  # the guard is the first child

    def stop(self, number: int, timeout: float) -> int:
        """Send a signal, and return the exit status. It must end within `timeout` seconds."""
        os.kill(self.pid, number)
        return self._process.wait(timeout)


@contextlib.contextmanager
def built_image() -> Iterator[Image]:
    """Build the image. The test is skipped if the programs or the base system are missing."""
    if os.getuid() != 0 or not all(map(shutil.which, ("buildah", "unshare", "chroot"))):
        pytest.skip("needs root, buildah, unshare and chroot")
    if not BASE.exists():
        pytest.skip("needs a Debian base system (tests/run image creates it)")
    store = Path(tempfile.mkdtemp(prefix="zkdns-image-"))
    try:
        yield Image(store)
    finally:
        shutil.rmtree(store, ignore_errors=True)
