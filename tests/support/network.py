"""Namespaces of a test's own, of networks and of mounts, which are gone with whatever was in them."""

import contextlib
import ctypes
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.waiting import eventually

_CLONE_NEWNET = 0x40000000  # <linux/sched.h>

_libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """A network namespace with nothing but loopback.

    A socket stays in the one that its thread was in when it was made.
    """

    def __init__(self, number: int) -> None:
        self._number = number

    @property
    def path(self) -> str:
        """What `ip` knows it by."""
        return f"/proc/{os.getpid()}/fd/{self._number}"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, and all that it starts, lives there."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            assert _libc.setns(self._number, _CLONE_NEWNET) == 0
            yield
        finally:
            assert _libc.setns(before, _CLONE_NEWNET) == 0
            os.close(before)


@contextlib.contextmanager
def new_network() -> Iterator[Network]:
    """A namespace; a test is skipped where none can be made."""
    if shutil.which("ip") is None or not hasattr(_libc, "unshare"):
        pytest.skip("needs Linux with ip")
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if _libc.unshare(_CLONE_NEWNET):
            pytest.skip(f"no network namespace can be made: {os.strerror(ctypes.get_errno())}")
        try:
            number = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        finally:
            assert _libc.setns(before, _CLONE_NEWNET) == 0
    finally:
        os.close(before)
    network = Network(number)
    try:
        with network.entered():
            ip("link set lo up")
        yield network
    finally:
        os.close(number)


def bind_mount_prefix(files: Mapping[str, Path]) -> list[str]:
    """What runs a command that finds these files at those places; a test is skipped where that cannot be."""
    if not all(map(shutil.which, ("unshare", "mount"))):
        pytest.skip("needs unshare and mount")
    mounts = " && ".join(shlex.join(["mount", "--bind", str(file), place]) for place, file in files.items())
    prefix = ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh"]
    probe = subprocess.run([*prefix, "true"], check=False, capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"no file can be mounted over another: {probe.stderr.strip()}")
    return prefix


def ip(command: str) -> None:
    """Run `ip` with this command in the thread's namespace."""
    subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True)


def link_twice(theirs: Network) -> None:
    """Link the thread's network with another one by `here` and `back`, which have these names at both ends.

    On `here` we are 192.0.0.1, 2001:db8::1 and fe80::1, on `back` 192.0.1.1, 2001:db8:1::1 and fe80::1, and
    they have a 2 in our 1's place. They have 203.0.113.9 and 2001:db8:9::9 too, to which `back` leads.
    """
    for number, link in enumerate(("here", "back")):
        ip(f"link add {link} type veth peer name {link} netns {theirs.path}")
        _give_addresses(link, number, 1)
        with theirs.entered():
            _give_addresses(link, number, 2)
    with theirs.entered():
        # Or it would say on each link that the address is there, and ask others in its name.
        for setting, value in (("arp_ignore", "1"), ("arp_announce", "2")):
            Path(f"/proc/sys/net/ipv4/conf/all/{setting}").write_text(value)
        ip("address add 203.0.113.9/32 dev lo")
        ip("address add 2001:db8:9::9/128 dev lo nodad")
        wait_until_up("here", "back")
    wait_until_up("here", "back")
    ip("route add 203.0.113.9 via 192.0.1.2")
    ip("-6 route add 2001:db8:9::9 via 2001:db8:1::2")


def _give_addresses(link: str, number: int, host: int) -> None:
    ip(f"address add 192.0.{number}.{host}/24 dev {link}")
    ip(f"address add 2001:db8:{number}::{host}/64 dev {link} nodad")
    ip(f"address add fe80::{host}/64 dev {link} nodad")
    ip(f"link set {link} up")


def wait_until_up(*links: str) -> None:
    """Wait until these links carry packets, which they do a moment after they were set up."""
    for link in links:
        command = ["ip", "-oneline", "link", "show", "dev", link]
        eventually(lambda command=command: b"state UP" in subprocess.check_output(command))  # type: ignore[misc]


def nft(rules: str) -> None:
    """Make these rules of packet filtering in the thread's namespace."""
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, capture_output=True)


def skip_without_nft() -> None:
    """Skip the test where the thread's namespace can have no rules."""
    try:
        nft("add table inet probe\n")
    except FileNotFoundError:
        pytest.skip("needs nft")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"nft does not work here: {error.stderr!r}")
