"""Builds the Go programs of this directory, and runs them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).parent / "programs"
# Kept between runs, since Go compiles its standard library first. Several builds may use it at a time.
_CACHE = Path(__file__).parents[2] / ".tests" / "go-cache"
CHECKOUT = "GO_SERVERSETS"
"""The environment variable with the path of a checkout of strava/go.serversets."""

# Where Debian's packages of Go libraries are.
_PACKAGED = Path("/usr/share/gocode")
_PACKAGES = {
    "github.com/golang/groupcache/consistenthash": "golang-github-golang-groupcache-dev",
    "github.com/samuel/go-zookeeper/zk": "golang-github-samuel-go-zookeeper-dev",
    "github.com/spaolacci/murmur3": "golang-github-spaolacci-murmur3-dev",
}


def go_is_missing() -> str:
    """The reason why no Go program can be built, or an empty string."""
    return "" if shutil.which("go") else "no go on the PATH (Debian and Ubuntu: apt install golang-go)"


def packages_are_missing() -> str:
    """The reason why packages.go cannot be built, or an empty string."""
    missing = [package for path, package in _PACKAGES.items() if not (_PACKAGED / "src" / path).is_dir()]
    if missing:
        return f"Go packages are missing (Debian and Ubuntu: apt install {' '.join(missing)})"
    return go_is_missing()


def checkout_is_missing() -> str:
    """The reason why original.go cannot be built, or an empty string."""
    checkout = os.environ.get(CHECKOUT)
    if not checkout:
        return f"{CHECKOUT} is not set to the path of a checkout of strava/go.serversets"
    if not (Path(checkout) / "serverset.go").is_file():
        return f"{CHECKOUT} is {checkout!r}, which is no checkout of strava/go.serversets"
    return go_is_missing()


def build(directory: Path, files: Sequence[Path]) -> Path:
    """Build a program in a new directory, without any download. Returns its path.

    Raises:
        AssertionError: it cannot be built.
    """
    gopath = directory / "gopath"
    if checkout := os.environ.get(CHECKOUT):
        # Only below a GOPATH does Go use the packages that the checkout contains.
        own = gopath / "src/github.com/strava/go.serversets"
        shutil.copytree(checkout, own, ignore=shutil.ignore_patterns(".git"))
    program = directory / "program"
    built = subprocess.run(
        ["go", "build", "-o", str(program), *map(str, files)],
        check=False, capture_output=True, text=True, timeout=300,
        env={
            **os.environ, "GO111MODULE": "off", "GOFLAGS": "", "GOPROXY": "off",
            "GOPATH": f"{gopath}:{_PACKAGED}", "GOCACHE": str(_CACHE),
        },
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return program


def ask(program: Path, requests: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The responses of the program `wire` to some requests."""
    lines = "\n".join(json.dumps(request) for request in requests)
    done = subprocess.run(
        [str(program)], input=lines, check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def encoded(data: bytes) -> str:
    """Bytes as encoding/json reads and writes them."""
    return base64.b64encode(data).decode()
