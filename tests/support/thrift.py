"""A real Thrift server (thriftpy2), a client, and a thread that holds a connection of a `ThriftSet`."""

# mypy: allow-untyped-calls
# (thriftpy2 declares types, but has them only in part.)

import contextlib
import io
import socket
import threading
from typing import Any, Self

import thriftpy2.parser
from thriftpy2.protocol import TBinaryProtocolFactory
from thriftpy2.thrift import TClient, TProcessor
from thriftpy2.transport import TBufferedTransportFactory, TServerSocket, TSocket, TTransportException

from tests.support.waiting import eventually
from zkdns.address import HostPort
from zkdns.errors import ZkdnsError
from zkdns.fixedset import FixedSet
from zkdns.thriftset import ThriftSet

IDL = """
exception Refused { 1: string why }
service Echo {
    string echo(1: string text),
    string refuse() throws (1: Refused refused),
    string meet(),
}
"""
echo_thrift = thriftpy2.parser.load_fp(io.StringIO(IDL), "echo_thrift")


class EchoServer:
    """A Thrift server on a free port, with a thread for each connection, as a context manager."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.opened = 0  # number of connections so far
        self.meeting = threading.Barrier(1)  # concurrent calls of `meet` wait for each other here
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = TServerSocket(host, 0, socket_family=family, client_timeout=None)
        self._connections: dict[TSocket, threading.Thread] = {}
        self._lock = threading.Lock()
        self._is_closed = False
        self._acceptor = threading.Thread(target=self._accept)

    def __enter__(self) -> Self:
        self._listener.listen()
        assert self._listener.sock is not None
        self.port = int(self._listener.sock.getsockname()[1])
        self.endpoint = str(HostPort(self.host, self.port))
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Stop it and close all connections. Its port then refuses new ones."""
        with self._lock:
            self._is_closed = True
            threads = list(self._connections.values())
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)
        self.meeting.abort()
        self._listener.close()
        for thread in [self._acceptor, *threads]:
            if thread.ident:
                thread.join()

    def disconnect(self) -> None:
        """Close all connections, and wait until that is done. New ones are accepted."""
        with self._lock:
            threads = list(self._connections.values())
            for connection in self._connections:
                connection.sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

    @property
    def open(self) -> int:
        """The number of open connections."""
        with self._lock:
            return len(self._connections)

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except (OSError, AssertionError):  # the listener was closed
                return
            with self._lock:
                if self._is_closed:
                    connection.close()
                    return
                self.opened += 1
                self._connections[connection] = thread = threading.Thread(
                    target=self._serve, args=(connection,)
                )
                thread.start()

    def _serve(self, connection: TSocket) -> None:
        transport = TBufferedTransportFactory().get_transport(connection)
        protocol = TBinaryProtocolFactory().get_protocol(transport)
        processor = TProcessor(echo_thrift.Echo, self)
        try:
            while True:
                processor.process(protocol, protocol)
        except (TTransportException, OSError, threading.BrokenBarrierError):
            with self._lock:
                del self._connections[connection]
            transport.close()

    # -- methods of the service -----------------------------------------------------------------------------

    def echo(self, text: str) -> str:
        return text

    def refuse(self) -> str:
        raise echo_thrift.Refused(why="because")

    def meet(self) -> str:
        self.meeting.wait(10.0)
        return "met"


class EchoClient(TClient):
    """An open connection, with its endpoint."""

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        connection = TSocket(host, port, socket_family=family, socket_timeout=10_000)
        transport = TBufferedTransportFactory().get_transport(connection)
        transport.open()
        self.sock: socket.socket = connection.sock
        super().__init__(echo_thrift.Echo, TBinaryProtocolFactory().get_protocol(transport))
        self.endpoint = str(HostPort(host, port))
        try:
            self.echo("")  # after the response, the server has counted the connection
        except BaseException:
            transport.close()
            raise


class Holder:
    """Holds a connection in a separate thread until `stop`."""

    def __init__(self, connections: ThriftSet[EchoClient], timeout: float | None = None) -> None:
        self.client: EchoClient | None = None
        self.error: BaseException | None = None
        self._connections, self._timeout = connections, timeout
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._hold)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def stop(self) -> None:
        """Return the connection to the set."""
        self.__exit__()

    def wait_for_client(self) -> EchoClient:
        """Wait for the connection, and return it."""
        return eventually(lambda: self.client)

    def _hold(self) -> None:
        try:
            with self._connections.connection(self._timeout) as self.client:
                self._stop.wait(20.0)
        except ZkdnsError as error:
            self.error = error


def endpoints_of(servers: list[EchoServer]) -> list[str]:
    """The endpoints, as `host:port`."""
    return [server.endpoint for server in servers]


def set_of(*endpoints: str, **options: Any) -> ThriftSet[EchoClient]:
    """A `ThriftSet` with fixed endpoints."""
    return ThriftSet(FixedSet(endpoints), EchoClient, **options)


def wait_for_no_connections(*servers: EchoServer) -> None:
    """Wait until the servers have no open connections."""
    eventually(lambda: [server.open for server in servers] == [0] * len(servers))


def wait_for_waiters(connections: ThriftSet[EchoClient], count: int) -> None:
    """Wait until `count` callers wait for a connection."""
    eventually(lambda: connections.waiting_count == count)
