"""The processes of a server, as /proc shows them."""

import contextlib
from pathlib import Path

from tests.support.server import ZkdnsServer


def is_running(pid: int) -> bool:
    """True if the process runs; False for a zombie."""
    return _state_and_parent(pid)[0] not in {"", "Z", "X"}


def children(server: ZkdnsServer) -> dict[int, str]:
    """Return the roles of the supervisor's children by process id; `zombie` for an unreaped child."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        state, parent = _state_and_parent(pid)
        if parent != server.process.pid:
            continue
        arguments = command_line(pid)
        if state == "Z":
            found[pid] = "zombie"
        elif "zkdns.daemon" in arguments:
            found[pid] = arguments[arguments.index("zkdns.daemon") + 1]
    return found


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def open_files(pid: int) -> list[str]:
    """Return the open files of a process: `socket`, `anon_inode`, `pipe`, or a path."""
    return sorted(link if link.startswith("/") else link.partition(":")[0] for link in links_to_files(pid))


def links_to_files(pid: int) -> list[str]:
    """Return the open files of a process in the kernel's notation: `socket:[4711]`, or a path."""
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(str(entry.readlink()))
    return links


def _state_and_parent(pid: int) -> tuple[str, int]:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    state, parent = stat.rpartition(")")[2].split()[:2]
    return state, int(parent)
