"""`zkdns serve` as a process of a benchmark, and a DNS client with little overhead."""

import contextlib
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests.bench.processes import memory
from tests.support.loopback import free_port
from tests.support.process_guard import kill_guarded, running_guarded, start_guarded

_TYPE_A = 1
_EDNS = b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)
_EDE = b"\x00\x0f"


def encode_query(name: str, qtype: int = _TYPE_A, ident: int = 0) -> bytes:
    """A query with EDNS."""
    question = b"".join(bytes((len(label),)) + label.encode() for label in name.split(".")) + b"\0"
    header = struct.pack("!6H", ident, 0x0100, 1, 0, 0, 1)
    return header + question + struct.pack("!HH", qtype, 1) + _EDNS


@contextlib.contextmanager
def run_module(*module_and_arguments: str) -> Iterator[Iterator[str]]:
    """Run a Python module in a process, yield the lines that it prints, and kill it at the end."""
    command = [sys.executable, "-m", *module_and_arguments]
    with running_guarded(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout


class UdpClient:
    """A UDP client that sends one query at a time and waits for its answer."""

    def __init__(self, port: int, timeout: float = 1.0) -> None:
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", port))
        self._socket.settimeout(timeout)
        self._ident = 0

    def query(self, name: str, qtype: int = _TYPE_A) -> bytes | None:
        """Send a query and return the answer, or None after the time-out."""
        self._ident = self._ident % 0xFFFF + 1
        query = encode_query(name, qtype, self._ident)
        try:
            self._socket.send(query)
            while (answer := self._socket.recv(65535))[:2] != query[:2]:
                pass  # a late answer to an earlier query
        except (TimeoutError, ConnectionRefusedError):
            return None
        return answer

    def has_answer(self, name: str, *, stale: bool = False) -> bool:
        """Whether the answer has records, and an extended error (EDE) exactly if `stale` is set."""
        answer = self.query(name)
        has_records = answer is not None and answer[3] & 15 == 0 and answer[7] > 0
        return has_records and answer is not None and (_EDE in answer[-40:]) == stale

    def close(self) -> None:
        self._socket.close()


class ZkdnsProcess:
    """`zkdns serve` with these arguments; it ends with the `with` block."""

    def __init__(self, *arguments: str) -> None:
        self.port = free_port()
        options = ("--listen", f"127.0.0.1:{self.port}", "--admin", "none", "--log-level", "warning")
        self._command = [sys.executable, "-m", "zkdns", "serve", *options, *arguments]
        self._process: subprocess.Popen[bytes]
        self.started_at = 0.0

    def __enter__(self) -> Self:
        self.started_at = time.monotonic()
        self._process = start_guarded(self._command, stdout=subprocess.DEVNULL)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        kill_guarded(self._process)

    def wait_for_answer(self, name: str, *, stale: bool = False, timeout: float = 120.0) -> float:
        """Seconds from the start of the process until the name is answered, with or without a stale mark."""
        client = UdpClient(self.port, timeout=0.2)
        try:
            while not client.has_answer(name, stale=stale):
                if time.monotonic() - self.started_at > timeout:
                    raise TimeoutError(f"{name} was not answered within {timeout:g} s")
                time.sleep(0.002)
            return time.monotonic() - self.started_at
        finally:
            client.close()

    def processes(self) -> list[int]:
        """Process ids of the supervisor and all its descendants."""
        found, parents = [], {self._process.pid}
        children: dict[int, list[int]] = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # the process has ended
            children.setdefault(int(fields[1]), []).append(int(path.name))
        while parents:
            parent = parents.pop()
            found.append(parent)
            parents.update(children.get(parent, ()))
        return found

    def memory(self) -> tuple[float, float]:
        """Megabytes of all processes together: shared pages counted per process (RSS), and once (PSS)."""
        used = memory(self.processes())
        return used.resident, used.proportional
