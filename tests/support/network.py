"""Network and mount namespaces for a test, which end with the processes and sockets in them."""

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
    """A network namespace with only loopback.

    A socket belongs to the namespace that its thread was in when it was created.
    """

    def __init__(self, number: int) -> None:
        self._number = number

    @property
    def path(self) -> str:
        """The path of the namespace, for `ip`."""
        return f"/proc/{os.getpid()}/fd/{self._number}"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Move this thread, and the processes that it starts, into the namespace."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            assert _libc.setns(self._number, _CLONE_NEWNET) == 0
            yield
        finally:
            assert _libc.setns(before, _CLONE_NEWNET) == 0
            os.close(before)


@contextlib.contextmanager
def new_network() -> Iterator[Network]:
    """A new namespace. The test is skipped if it cannot be created."""
    if shutil.which("ip") is None or not hasattr(_libc, "unshare"):
        pytest.skip("needs Linux with ip")
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if _libc.unshare(_CLONE_NEWNET):
            pytest.skip(f"cannot create a network namespace: {os.strerror(ctypes.get_errno())}")
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


class Lan:
    """Machines that a bridge connects. Each is a network with a link to it and an address in 10.9.0.0/24.

    Args:
        stack: ends the networks.
    """

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._switch = stack.enter_context(new_network())
        with self._switch.entered():
            ip("link add bridge type bridge")
            ip("link set bridge up")

    def add(self, host: int) -> Network:
        """Make a machine with this host number."""
        machine = self._stack.enter_context(new_network())
        with self._switch.entered():
            ip(f"link add port{host} type veth peer name lan netns {machine.path}")
            ip(f"link set port{host} master bridge up")
        with machine.entered():
            ip(f"address add 10.9.0.{host}/24 dev lan")
            ip("link set lan up")
        return machine

    def set_link(self, host: int, state: str) -> None:
        """Set the link of a machine `up` or `down`, at the bridge's end."""
        with self._switch.entered():
            ip(f"link set port{host} {state}")


def bind_mount_prefix(files: Mapping[str, Path]) -> list[str]:
    """A command prefix that mounts files over the given paths.

    The test is skipped if this is not possible.
    """
    if not all(map(shutil.which, ("unshare", "mount"))):
        pytest.skip("needs unshare and mount")
    mounts = " && ".join(shlex.join(["mount", "--bind", str(file), path]) for path, file in files.items())
    prefix = ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh"]
    probe = subprocess.run([*prefix, "true"], check=False, capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"cannot mount a file over another: {probe.stderr.strip()}")
    return prefix


def ip(command: str) -> None:
    """Run `ip` with this command in the namespace of this thread."""
    subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True)


def link_twice(other: Network) -> None:
    """Connect the network of this thread with another one by two links, `here` and `back` (at both ends).

    This network has 192.0.0.1, 2001:db8::1 and fe80::1 on `here`, and 192.0.1.1, 2001:db8:1::1 and fe80::1 on
    `back`. The other network has the same addresses with host number 2. It also has 203.0.113.9 and
    2001:db8:9::9, which are routed over `back`.
    """
    for number, link in enumerate(("here", "back")):
        ip(f"link add {link} type veth peer name {link} netns {other.path}")
        _add_addresses(link, number, 1)
        with other.entered():
            _add_addresses(link, number, 2)
    with other.entered():
        # Otherwise it would answer ARP requests for its addresses on both links.
        for setting, value in (("arp_ignore", "1"), ("arp_announce", "2")):
            Path(f"/proc/sys/net/ipv4/conf/all/{setting}").write_text(value)
        ip("address add 203.0.113.9/32 dev lo")
        ip("address add 2001:db8:9::9/128 dev lo nodad")
        wait_until_up("here", "back")
    wait_until_up("here", "back")
    ip("route add 203.0.113.9 via 192.0.1.2")
    ip("-6 route add 2001:db8:9::9 via 2001:db8:1::2")


def _add_addresses(link: str, number: int, host: int) -> None:
    ip(f"address add 192.0.{number}.{host}/24 dev {link}")
    ip(f"address add 2001:db8:{number}::{host}/64 dev {link} nodad")
    ip(f"address add fe80::{host}/64 dev {link} nodad")
    ip(f"link set {link} up")


def wait_until_up(*links: str) -> None:
    """Wait until these links carry packets, which takes a moment after `ip link set up`."""
    for link in links:
        command = ["ip", "-oneline", "link", "show", "dev", link]
        eventually(lambda command=command: b"state UP" in subprocess.check_output(command))  # type: ignore[misc]


def nft(rules: str) -> None:
    """Add packet filter rules in the namespace of this thread."""
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, capture_output=True)


def skip_without_nft() -> None:
    """Skip the test if nft cannot add rules in the namespace of this thread."""
    try:
        nft("add table inet probe\n")
    except FileNotFoundError:
        pytest.skip("needs nft")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"nft does not work here: {error.stderr!r}")
