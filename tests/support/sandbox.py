"""A sandbox that forbids system calls (seccomp), as in containers and systemd units."""

import platform
import subprocess
import sys

import pytest

# From <asm/unistd_64.h> and <asm-generic/unistd.h>.
_NUMBERS = {"recvmmsg": {"x86_64": 299, "aarch64": 243}, "sendmmsg": {"x86_64": 307, "aarch64": 269}}

# <linux/prctl.h>, <linux/seccomp.h>, <linux/bpf_common.h>: forbidden calls fail with EPERM.
_LAUNCH = """\
import ctypes, os, struct, sys
numbers, command = sys.argv[1].split(","), sys.argv[2:]
count = len(numbers)
steps = [(0x20, 0, 0, 0), *((0x15, count - at, 0, int(number)) for at, number in enumerate(numbers))]
steps += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050001)]
steps = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", count + 3, ctypes.addressof(steps)))
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
for call in ((38, 1, 0, 0, 0), (22, 2, ctypes.addressof(program), 0, 0)):
    if libc.prctl(*call):
        sys.exit(os.strerror(ctypes.get_errno()))
os.execvp(command[0], command)
"""


def seccomp_prefix(*calls: str) -> list[str]:
    """A command prefix that forbids system calls. The test is skipped if this is not possible."""
    machine = platform.machine()
    if sys.platform != "linux" or any(machine not in _NUMBERS[call] for call in calls):
        pytest.skip(f"the system call numbers of {sys.platform} on {machine} are not listed")
    numbers = ",".join(str(_NUMBERS[call][machine]) for call in calls)
    prefix = [sys.executable, "-c", _LAUNCH, numbers]
    probe = subprocess.run([*prefix, "true"], check=False, capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"cannot forbid system calls: {probe.stderr.strip()}")
    return prefix
