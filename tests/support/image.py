"""The image that Dockerfile describes: built by buildah, and run as a container engine would, without any."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.process_guard import guarded

ROOT = Path(__file__).parents[2]
BASE = ROOT / ".tests" / "debian.tar"
_BUILD_SECONDS = 300
_FILES = ("cert", "client-cert")
_WAYS = (*_FILES, "index-url", "extra-index-url", "trusted-host", "proxy", "timeout")

# Becomes the program: with processes and devices as in any container, as its user, without other variables.
_ENTER = """\
mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" &&
exec chroot --userspec="$1" --groups= "$0" env -i "${@:2}"
"""


class Image:
    """A built image, and a container of it that is not started.

    Args:
        store: an empty directory for whatever buildah keeps.
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
        """The root of the container's files."""

    def _buildah(self, *arguments: str) -> str:
        """What it prints."""
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
        """What leads pip to where this machine has its packages from: settings, and files that they name."""
        listed = subprocess.check_output([sys.executable, "-m", "pip", "config", "list"], text=True)
        settings: dict[str, list[str]] = {}
        for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
            name, _, value = line.partition("=")
            # Indexes on this machine's own disk may lead anywhere on it.
            words = [word for word in ast.literal_eval(value).split() if not word.startswith("file:")]
            if (key := name.rpartition(".")[2]) in _WAYS and words:
                settings[key] = words
        pip_conf = self._store / "pip.conf"
        lines = [f"{key} = {' '.join(words)}\n" for key, words in settings.items()]
        pip_conf.write_text("".join(["[global]\n", *lines]))
        yield f"{pip_conf}:/etc/pip.conf"
        files = {word for key in _FILES for word in settings.get(key, ())}
        yield from (f"{file}:{file}" for file in files)

    def command(self, *program: str) -> list[str]:
        """What runs a program in the container, as its process 1, with the image's user and variables."""
        entered = ["bash", "-c", _ENTER, str(self.files), self.config["User"], *self.config["Env"], *program]
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", *entered]

    @property
    def health(self) -> list[str]:
        """What tells by its exit status whether the container is healthy."""
        kind, *words = self.config["Healthcheck"]["Test"]
        return ["/bin/sh", "-c", *words] if kind == "CMD-SHELL" else words


class Container:
    """The image's own program, running; as a context manager it is ended with all that it started."""

    def __init__(self, image: Image, log: Path) -> None:
        self._log = log
        command = image.command(*image.config["Entrypoint"], *image.config["Cmd"])
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                guarded(command), stdin=subprocess.PIPE, stdout=out, stderr=out, start_new_session=True
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Its process 1, by the number that it has outside."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return int(children.split()[-1])  # behind the guard, which was there before

    def stop(self, number: int, timeout: float) -> int:
        """The exit status after this signal, which must come in so many seconds."""
        os.kill(self.pid, number)
        return self._process.wait(timeout)


@contextlib.contextmanager
def built_image() -> Iterator[Image]:
    """The image; a test is skipped where there is nothing to build it with or on."""
    if os.getuid() != 0 or not all(map(shutil.which, ("buildah", "unshare", "chroot"))):
        pytest.skip("needs root, buildah, unshare and chroot")
    if not BASE.exists():
        pytest.skip("there is no Debian to build on (tests/run image makes it)")
    store = Path(tempfile.mkdtemp(prefix="zkdns-image-"))
    try:
        yield Image(store)
    finally:
        shutil.rmtree(store, ignore_errors=True)
