"""DNS over TLS (RFC 7858, RFC 9103): handshakes, records, certificates and limits, over real connections."""

import asyncio
import contextlib
import itertools
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.tls import CertificateAuthority
from tests.support.waiting import eventually
from tests.transport.helpers import Running, echo, serving
from tests.transport.tcp_client import SECONDS, TcpClient, framed
from zkdns.errors import BadValueError
from zkdns.transport.contract import MessageSink, MessageStream, StreamedResponse
from zkdns.transport.held_bytes import HeldBytes
from zkdns.transport.tcp import HeldConnections
from zkdns.transport.tls import Tls

LONG_ANSWER = 60_000


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def certificate(authority: CertificateAuthority) -> str:
    return str(authority.sign("127.0.0.1"))


@pytest.fixture
def tls(certificate: str) -> Tls:
    return Tls(certificate, None, for_dns=True)


@pytest.fixture
def server(tls: Tls) -> Iterator[Running]:
    with serving(echo, tls=tls) as running:
        yield running


def context_of(authority: CertificateAuthority, *alpn: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.file))
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


class TlsClient(TcpClient):
    """A client's TLS connection."""

    socket: ssl.SSLSocket

    def __init__(
        self, server: Running, context: ssl.SSLContext, source: str | None = None, receive_buffer: int = 0
    ) -> None:
        super().__init__(server, source, receive_buffer)
        self.socket = context.wrap_socket(
            self.socket, server_hostname="127.0.0.1", suppress_ragged_eofs=False
        )


def long_answers(message: bytes, *, stream: bool) -> bytes:  # noqa: ARG001 - the protocol's signature
    return message.ljust(LONG_ANSWER, b".")


# -- handshakes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "selected"),
    [((), None), (("dot",), "dot"), (("h2", "dot"), "dot"), (("h2",), None)],
    ids=["none", "dot", "several", "others"],
)
def test_dns_39_the_protocol_dot_is_selected_if_it_is_offered(
    server: Running, authority: CertificateAuthority, offered: tuple[str, ...], selected: str | None
) -> None:
    with TlsClient(server, context_of(authority, *offered)) as client:
        assert client.socket.version() == "TLSv1.3"
        assert client.socket.selected_alpn_protocol() == selected
        client.send(b"question")
        assert client.answer() == b"question:tcp"


def test_dns_39_tls_1_2_is_refused(server: Running, authority: CertificateAuthority, tls: Tls) -> None:
    context = context_of(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        TlsClient(server, context)
    eventually(lambda: tls.failed_handshakes == 1)
    assert tls.handshakes == 0


def test_a_query_without_tls_gets_no_response(server: Running, tls: Tls) -> None:
    with TcpClient(server) as client:
        client.send(b"question")
        with contextlib.suppress(ConnectionResetError):
            assert client.socket.recv(100)[:1] in (b"", b"\x15")  # a TLS alert at most
    eventually(lambda: tls.failed_handshakes == 1)


def test_dns_39_a_handshake_that_does_not_end_is_closed(authority: CertificateAuthority, tls: Tls) -> None:
    with serving(echo, tls=tls, idle_seconds=0.3) as server, TcpClient(server) as silent:
        silent.socket.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert silent.answer() is None
        assert tls.failed_handshakes == 1
        with TlsClient(server, context_of(authority)) as client:
            client.send(b"question")
            assert client.answer() == b"question:tcp"
        assert tls.handshakes == 1


def test_a_client_whose_handshakes_do_not_end_locks_no_other_out(
    authority: CertificateAuthority, tls: Tls
) -> None:
    with (
        serving(echo, tls=tls, max_connections=10, max_per_client=5) as server,
        contextlib.ExitStack() as stack,
    ):
        silent = [stack.enter_context(TcpClient(server, source="127.0.0.2")) for _ in range(20)]
        client = stack.enter_context(TlsClient(server, context_of(authority)))
        client.send(b"question")
        assert client.answer() == b"question:tcp"
        eventually(lambda: sum(each.is_open for each in silent) == 5)


def test_unfinished_handshakes_count_as_memory(authority: CertificateAuthority, tls: Tls) -> None:
    """The connection with the most memory is closed: one with an unfinished handshake."""
    held: HeldConnections = HeldBytes(max_total=200_000)
    with serving(echo, tls=tls, held=held) as server, contextlib.ExitStack() as stack:
        client = stack.enter_context(TlsClient(server, context_of(authority)))
        client.send(b"question")
        assert client.answer() == b"question:tcp"
        silent = [stack.enter_context(TcpClient(server)) for _ in range(6)]
        eventually(lambda: server.tcp.dropped == 3)
        assert held.total <= 200_000
        eventually(lambda: sum(each.is_open for each in silent) == 3)
        client.send(b"question")
        assert client.answer() == b"question:tcp"
    assert held.total == 0


# -- records ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 512, 65_531], ids="{} bytes".format)
def test_a_message_gets_a_response(server: Running, authority: CertificateAuthority, size: int) -> None:
    message = b"x" * size
    with TlsClient(server, context_of(authority)) as client:
        client.send(message)
        assert client.answer() == message + b":tcp"


def test_a_message_may_arrive_byte_by_byte(server: Running, authority: CertificateAuthority) -> None:
    with TlsClient(server, context_of(authority)) as client:
        for byte in framed(b"first") + framed(b"second"):
            client.socket.send(bytes([byte]))
        assert [client.answer(), client.answer()] == [b"first:tcp", b"second:tcp"]


def test_all_queries_of_one_record_are_answered(server: Running, authority: CertificateAuthority) -> None:
    """The file descriptor does not become ready again for data that is decrypted but not read."""
    messages = [b"question %d" % number for number in range(1000)]
    assert len(framed(*messages)) < 16_384
    with TlsClient(server, context_of(authority)) as client:
        client.send(*messages)
        assert [client.answer() for _ in messages] == [message + b":tcp" for message in messages]
        client.send(b"one more")
        assert client.answer() == b"one more:tcp"


def test_a_slow_reader_gets_every_response(authority: CertificateAuthority, tls: Tls) -> None:
    numbers = [b"%d." % number for number in range(300)]
    with (
        serving(long_answers, tls=tls) as server,
        TlsClient(server, context_of(authority), receive_buffer=4096) as slow,
    ):
        slow.send(*numbers)
        eventually(lambda: server.tcp.unsent_bytes)
        with TlsClient(server, context_of(authority)) as other:
            other.send(b"question")
            assert len(other.answer() or b"") == LONG_ANSWER
        for number in numbers:
            assert slow.answer() == number.ljust(LONG_ANSWER, b".")


def test_a_client_that_never_reads_is_closed(authority: CertificateAuthority, tls: Tls) -> None:
    with (
        serving(long_answers, tls=tls, idle_seconds=0.3) as server,
        TlsClient(server, context_of(authority), receive_buffer=4096) as client,
    ):
        client.send(*[b"question"] * 300)
        eventually(lambda: not server.tcp.connection_count, SECONDS)


def test_responses_arrive_after_the_client_has_announced_its_end(
    server: Running, authority: CertificateAuthority
) -> None:
    """TLS 1.3 closes each direction by itself (RFC 8446 §6.1)."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context_of(authority).wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with TcpClient(server) as connection:

        def exchange(step: object) -> bytes:
            assert callable(step)
            while True:
                try:
                    result = step()
                except ssl.SSLWantReadError:
                    connection.socket.sendall(outgoing.read())
                    incoming.write(connection.socket.recv(65536))
                else:
                    connection.socket.sendall(outgoing.read())
                    return result or b""

        exchange(client.do_handshake)
        client.write(framed(*[b"question"] * 100))
        with contextlib.suppress(ssl.SSLWantReadError):
            client.unwrap()
        received = b""
        while len(received) < 100 * 14:
            received += exchange(lambda: client.read(65536))
        assert received == framed(*[b"question:tcp"] * 100)


@pytest.mark.parametrize("sent", [b"", framed(b"question")[:-1]])
def test_an_idle_connection_is_closed_with_an_announcement(
    authority: CertificateAuthority, tls: Tls, sent: bytes
) -> None:
    """The client can thereby distinguish it from a connection that an attacker has cut off."""
    with (
        serving(echo, tls=tls, idle_seconds=0.3) as server,
        TlsClient(server, context_of(authority)) as client,
    ):
        client.socket.sendall(sent)
        assert client.socket.recv(100) == b""  # without an announcement this is an SSLEOFError


def test_close_inactive_closes_inactive_connections_only(
    server: Running, authority: CertificateAuthority
) -> None:
    def close_inactive() -> bool:
        return server.call(lambda: server.tcp.close_inactive(time.monotonic() + SECONDS))

    context = context_of(authority)
    with TlsClient(server, context) as silent, TlsClient(server, context) as half:
        for client in (silent, half):
            client.send(b"first")
            assert client.answer() == b"first:tcp"
        half.socket.sendall(framed(b"second")[:4])
        eventually(lambda: not close_inactive() and server.tcp.connection_count == 1)
        assert silent.socket.recv(100) == b""
        half.socket.sendall(framed(b"second")[4:])
        assert half.answer() == b"second:tcp"
        eventually(close_inactive)


def test_a_stream_of_small_records_delays_no_other_client(authority: CertificateAuthority, tls: Tls) -> None:
    context = context_of(authority)
    with (
        serving(echo, tls=tls) as server,
        TlsClient(server, context) as greedy,
        TlsClient(server, context) as other,
    ):

        def flood() -> None:
            with contextlib.suppress(OSError):
                while True:
                    greedy.socket.sendall(b"\xff\xff" + b"x" * 98)

        sender = threading.Thread(target=flood)
        sender.start()
        try:
            for _ in range(100):
                other.send(b"question")
                assert other.answer() == b"question:tcp"
        finally:
            with contextlib.suppress(OSError):
                greedy.socket.shutdown(socket.SHUT_RDWR)
            sender.join()


# -- streamed responses -------------------------------------------------------------------------------------


class Streams(dict[bytes, Iterator[bytes]]):
    """Answers each query with a long stream, and notes whether the client used DNS over TLS."""

    def __init__(self) -> None:
        self.were_tls: list[bool] = []

    def __missing__(self, key: bytes) -> Iterator[bytes]:
        def begin(ident: bytes, _address: bytes, sink: MessageSink) -> MessageStream:
            self.were_tls.append(sink.is_tls)
            return _Stream(ident, sink)

        return itertools.repeat(StreamedResponse(begin))


class _Stream:
    def __init__(self, ident: bytes, sink: MessageSink) -> None:
        self._parts = [framed(ident + bytes([65 + number]) * LONG_ANSWER) for number in range(20)]
        self._sink = sink
        asyncio.get_running_loop().call_soon(self.resume)

    def resume(self) -> None:
        while self._parts:
            if not self._sink.write(self._parts.pop(0)):
                return
        self._sink.end(is_whole=True)

    def cancel(self) -> None:
        self._parts.clear()


@pytest.mark.parametrize(("alpn", "is_tls"), [(("dot",), True), ((), False)])
def test_a_streamed_response_over_tls(
    authority: CertificateAuthority, tls: Tls, alpn: tuple[str, ...], *, is_tls: bool
) -> None:
    """Zone transfers need the protocol `dot` (RFC 9103 §7.1)."""
    lookup = Streams()
    with (
        serving(echo, tls=tls, streams=lookup) as server,
        TlsClient(server, context_of(authority, *alpn), receive_buffer=8192) as client,
    ):
        client.send(b"id transfer", b"id again")
        for _ in range(2):
            for number in range(20):
                assert client.answer() == b"id" + bytes([65 + number]) * LONG_ANSWER
        assert lookup.were_tls == [is_tls] * 2


# -- certificates -------------------------------------------------------------------------------------------


def test_unusable_files_are_errors(tmp_path: Path, certificate: str) -> None:
    other = tmp_path / "other.pem"
    with pytest.raises(BadValueError, match="cannot be used with its key"):
        Tls(str(other), None, for_dns=True)
    directory = tmp_path / "authority"
    directory.mkdir()
    with pytest.raises(BadValueError, match="cannot be used with its key"):
        Tls(certificate, str(CertificateAuthority(directory).sign("127.0.0.1")), for_dns=True)


def test_a_server_without_a_usable_certificate_waits_for_one(
    tmp_path: Path, authority: CertificateAuthority, certificate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker must serve UDP and TCP in any case."""
    monkeypatch.setattr("zkdns.transport.tls.RENEW_SECONDS", 0.02)
    file = tmp_path / "own.pem"
    with capture_logs() as logs:
        tls = Tls(str(file), None, for_dns=True, must_be_usable=False)
    assert [entry["event"] for entry in logs] == ["certificate_refused"]
    with serving(echo, tls=tls) as server:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            TlsClient(server, context_of(authority))
        file.touch(0o600)
        file.write_bytes(Path(certificate).read_bytes())
        renewing = asyncio.run_coroutine_threadsafe(tls.renew(), server.loop)

        def is_served() -> bool:
            with contextlib.suppress(OSError), TlsClient(server, context_of(authority)) as client:
                client.send(b"question")
                return client.answer() == b"question:tcp"
            return False

        eventually(is_served)
        renewing.cancel()


def test_the_loop_sleeps_while_a_connection_is_idle(server: Running, authority: CertificateAuthority) -> None:
    """Decrypted data is waited for with a writable socket, which must end with the data."""
    with TlsClient(server, context_of(authority)) as client:
        client.send(*[b"question"] * 1000)
        for _ in range(1000):
            assert client.answer() == b"question:tcp"
        used = time.thread_time_ns
        before = server.call(used)
        select.select([client.socket], [], [], 0.3)
        assert server.call(used) - before < 100_000_000
