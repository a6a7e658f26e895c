"""Real ZooKeeper servers and ensembles for tests, which can be killed, paused and restarted."""

import contextlib
import functools
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support.process_guard import kill_guarded, start_guarded
from tests.support.waiting import eventually

_HOST = "127.0.0.1"
_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 10.0
_LOG_TAIL = 4000

# The fastest start, by measurement. The verification of bytecode would take a sixth of its processor time.
# With -UsePerfData a killed JVM leaves no file in /tmp.
_JVM_FLAGS = (
    "-Xshare:auto",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UnlockDiagnosticVMOptions",
    "-XX:-BytecodeVerificationRemote",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Dzookeeper.jmx.log4j.disable=true",
)
_HEAP_MEGABYTES = 96
_MAIN_CLASS = "org.apache.zookeeper.server.quorum.QuorumPeerMain"

_SETTINGS = {
    "tickTime": "500",
    "minSessionTimeout": "1000",
    "maxSessionTimeout": "40000",
    "initLimit": "20",
    "syncLimit": "6",
    "maxClientCnxns": "0",
    "4lw.commands.whitelist": "*",
    "admin.enableServer": "false",
    "extendedTypesEnabled": "true",
    "forceSync": "no",
    "preAllocSize": "1024",
    "quorumListenOnAllIPs": "false",
}

# A configuration for each logger that ZooKeeper releases contain, found on the class path.
_LOGGER_CONFIGS = {
    "logback.xml": """\
<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d %-5level [%thread] %logger{0}: %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="OUT"/></root>
</configuration>
""",
    "log4j.properties": """\
log4j.rootLogger=INFO, OUT
log4j.appender.OUT=org.apache.log4j.ConsoleAppender
log4j.appender.OUT.layout=org.apache.log4j.PatternLayout
log4j.appender.OUT.layout.ConversionPattern=%d %-5p [%t] %c{1}: %m%n
""",
    "simplelogger.properties": "org.slf4j.simpleLogger.showDateTime=true\n",
}


@functools.cache
def _class_path() -> str:
    finder = Path(__file__).with_name("find_zookeeper.sh")
    found = subprocess.run(["sh", str(finder)], stdout=subprocess.PIPE, text=True, check=False)
    if found.returncode != 0:
        raise RuntimeError("no ZooKeeper found: run the tests with tests/run, or set ZOOKEEPER_CLASSPATH")
    return found.stdout.strip()


def _java() -> str:
    java = Path(os.environ.get("JAVA_HOME", ""), "bin", "java")
    return str(java) if "JAVA_HOME" in os.environ and java.exists() else "java"


class _Port:
    """A free port that stays reserved for one server, even while the server is down.

    The port is bound to a socket that does not listen. The server can bind it too (both have SO_REUSEADDR),
    but the kernel assigns it neither to a bind to port 0 nor to an outgoing connection.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((_HOST, 0))
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()


class ZooKeeperServer:
    """One ZooKeeper server: a JVM with its own directory and port, which stay the same until `close`.

    As a context manager it is started and closed.

    Args:
        settings: additional lines of zoo.cfg.
        jvm_flags: additional flags of Java.
        tls: settings `ssl.…`, for a second port with TLS.
        member_id: the number of the server in its ensemble.
        heap_megabytes: the size of the Java heap.
    """

    def __init__(
        self,
        *,
        settings: Mapping[str, str] | None = None,
        jvm_flags: Sequence[str] = (),
        tls: Mapping[str, str] | None = None,
        member_id: int | None = None,
        heap_megabytes: int = _HEAP_MEGABYTES,
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="zkdns-zookeeper-"))
        self.log_file = self.directory / "log"
        self._port = _Port()
        self._secure_port = _Port() if tls is not None else None
        self._jvm_flags = (f"-Xmx{heap_megabytes}m", *_JVM_FLAGS, *jvm_flags)
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

        data = self.directory / "data"
        data.mkdir()
        if member_id is not None:
            (data / "myid").write_text(f"{member_id}\n")
        for name, text in _LOGGER_CONFIGS.items():
            (self.directory / name).write_text(text)
        lines = {
            **_SETTINGS,
            "dataDir": str(data),
            "clientPortAddress": _HOST,
            "clientPort": str(self._port.number),
            **(settings or {}),
        }
        if self._secure_port is not None:
            lines |= {
                "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
                "secureClientPortAddress": _HOST,
                "secureClientPort": str(self._secure_port.number),
                **(tls or {}),
            }
        self._config = self.directory / "zoo.cfg"
        self._config.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))

    @property
    def address(self) -> str:
        """The address for clients, as `127.0.0.1:port`."""
        return f"{_HOST}:{self._port.number}"

    @property
    def secure_port(self) -> int:
        """The port with TLS."""
        assert self._secure_port is not None
        return self._secure_port.number

    @property
    def port(self) -> int:
        return self._port.number

    @property
    def running(self) -> bool:
        """Whether there is a JVM, running or paused."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process ID of the JVM."""
        return self._running_process().pid

    def start(self, *, timeout: float = _START_TIMEOUT) -> Self:
        """Start the JVM with the data of the previous one, and wait until it serves clients.

        ZooKeeper loses some connections during its start: they stay open without a response. A client that
        reconnects at that time is stuck until its own timeout.
        """
        self.launch()
        self.wait_until_serving(timeout=timeout)
        return self

    def launch(self) -> None:
        """Start the JVM, and return immediately."""
        if self._closed or self.running:
            raise RuntimeError(
                f"the ZooKeeper at {self.address} is {'closed' if self._closed else 'running'}"
            )
        self._end_process()  # if the previous JVM has crashed
        class_path = f"{self.directory}:{_class_path()}"
        jvm = [_java(), *self._jvm_flags, "-cp", class_path, _MAIN_CLASS, str(self._config)]
        with self.log_file.open("ab") as log:
            self._process = start_guarded(jvm, remove=str(self.directory), stdout=log, stderr=log)

    def wait_until_serving(self, *, timeout: float = _START_TIMEOUT) -> None:
        """Wait until it serves clients. An error contains the end of its log."""
        deadline = time.monotonic() + timeout
        # A request during the start may never get a response (see `start`), so the timeout is short.
        while not (self.running and self.mode(timeout=0.2)):
            if not self.running or time.monotonic() >= deadline:
                problem = f"does not serve after {timeout:g} s" if self.running else "has exited"
                tail = self.log_file.read_text(errors="replace")[-_LOG_TAIL:]
                self.kill()
                raise RuntimeError(f"the ZooKeeper at {self.address} {problem}; its log ends with:\n{tail}")
            time.sleep(0.005)

    def kill(self) -> None:
        """Kill it with SIGKILL, if it runs."""
        self._end_process()

    def stop(self) -> None:
        """Stop it with SIGTERM, even if it is paused."""
        if self.running:
            process = self._running_process()
            process.terminate()
            process.send_signal(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_TIMEOUT)
        self._end_process()

    def lose_data(self) -> None:
        """Remove all znodes and transactions. The server must be down."""
        assert not self.running
        shutil.rmtree(self.directory / "data" / "version-2")

    def save_data(self) -> None:
        """Save a copy of its data directory for `restore_data`. The server must be down."""
        assert not self.running
        shutil.copytree(self.directory / "data", self.directory / "saved", dirs_exist_ok=True)

    def restore_data(self) -> None:
        """Replace its data directory with the saved copy. The server must be down."""
        assert not self.running
        shutil.rmtree(self.directory / "data")
        shutil.copytree(self.directory / "saved", self.directory / "data")

    def pause(self) -> None:
        """Stop it with SIGSTOP, and wait until it has stopped. Connections stay open without responses."""
        process = self._running_process()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Continue it after `pause`."""
        self._running_process().send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill it, release its port, and remove its directory."""
        self.kill()
        self._closed = True
        self._port.close()
        if self._secure_port is not None:
            self._secure_port.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def four_letter(self, word: str, *, timeout: float = 2.0) -> str:
        """Send a four-letter word such as `mntr`, and return the response.

        Raises OSError after the timeout.
        """
        with socket.create_connection((_HOST, self.port), timeout) as connection:
            connection.sendall(word.encode("ascii"))
            answer = bytearray()
            while chunk := connection.recv(65536):
                answer += chunk
        return answer.decode()

    def count_watches(self) -> int:
        """The number of watches of its clients."""
        (found,) = (
            line for line in self.four_letter("wchs").splitlines() if line.startswith("Total watches:")
        )
        return int(found.partition(":")[2])

    def mode(self, *, timeout: float = 1.0) -> str | None:
        """`standalone`, `leader`, `follower` or `observer`; None while it does not serve clients."""
        with contextlib.suppress(OSError):
            for line in self.four_letter("srvr", timeout=timeout).splitlines():
                if line.startswith("Mode: "):
                    return line.removeprefix("Mode: ")
        return None

    def is_serving(self) -> bool:
        return self.running and self.mode() is not None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def _running_process(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"the ZooKeeper at {self.address} is not running")
        return self._process

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            kill_guarded(process)


class Ensemble:
    """An ensemble of ZooKeeper servers. As a context manager it is started and closed.

    Args:
        size: the number of voting servers.
        observers: the number of observers, which are the last of `members`.
        settings: additional lines of zoo.cfg.
        jvm_flags: additional flags of Java.
    """

    def __init__(
        self,
        size: int = 3,
        *,
        observers: int = 0,
        settings: Mapping[str, str] | None = None,
        jvm_flags: Sequence[str] = (),
    ) -> None:
        self._ports = [(_Port(), _Port()) for _ in range(size + observers)]
        common = {
            f"server.{number}": f"{_HOST}:{quorum.number}:{election.number}"
            + (":observer" if number > size else "")
            for number, (quorum, election) in enumerate(self._ports, 1)
        }
        common |= {"standaloneEnabled": "false", **(settings or {})} if observers else settings or {}
        self.members = [
            ZooKeeperServer(
                settings={**common, "peerType": "observer"} if number > size else common,
                jvm_flags=jvm_flags,
                member_id=number,
            )
            for number in range(1, size + observers + 1)
        ]

    @property
    def hosts(self) -> str:
        """The addresses for clients, as `127.0.0.1:port,127.0.0.1:port,…`."""
        return ",".join(member.address for member in self.members)

    def start(self, *, timeout: float = _START_TIMEOUT) -> Self:
        """Start the servers that do not run, in parallel, and wait until they serve clients."""
        started = [member for member in self.members if not member.running]
        for member in started:
            member.launch()
        for member in started:
            member.wait_until_serving(timeout=timeout)
        return self

    def leader(self, *, timeout: float = _START_TIMEOUT) -> ZooKeeperServer:
        """Wait for a leader, and return it. A paused server does not count."""
        return eventually(lambda: next(iter(self._serving_as("leader")), None), timeout)

    def followers(self) -> list[ZooKeeperServer]:
        """The current followers."""
        return self._serving_as("follower")

    def observers(self) -> list[ZooKeeperServer]:
        """The current observers."""
        return self._serving_as("observer")

    def close(self) -> None:
        for member in self.members:
            member.close()
        for ports in self._ports:
            for port in ports:
                port.close()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serving_as(self, mode: str) -> list[ZooKeeperServer]:
        return [member for member in self.members if member.running and member.mode() == mode]


def expire_session(client: Any, *, timeout: float = 10.0) -> None:
    """Expire the session of a connected KazooClient. On return it has ended on the servers.

    The server drops the connection of the client. The client gets the expiry when it reconnects.
    """
    identity = client.client_id
    if identity is None:
        raise RuntimeError("the client has no session to expire")
    session, password = identity
    host, port = client.hosts[0][:2]
    eventually(lambda: _close_session(str(host), int(port), session, password), timeout)


def _close_session(host: str, port: int, session: int, password: bytes) -> bool:
    """Take over the session and close it; return True if it had ended before."""
    connect = struct.pack(f">iqiqi{len(password)}s?", 0, 0, 10000, session, len(password), password, False)
    close = struct.pack(">ii", 1, -11)
    with socket.create_connection((host, port), 2.0) as connection:
        # In one write: the client loses its connection, and reconnects immediately to take over the session
        # again.
        connection.sendall(struct.pack(">i", len(connect)) + connect + struct.pack(">i", len(close)) + close)
        answer = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(4096):
                answer += chunk
    # Length and protocol version, then the session timeout: 0 means that the session does not exist.
    return len(answer) >= 12 and struct.unpack_from(">i", answer, 8) == (0,)
