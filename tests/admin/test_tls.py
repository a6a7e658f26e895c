"""HTTPS at the admin address: certificates, their renewal, handshakes that do not end, and commands."""

import contextlib
import os
import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from tests.admin.helpers import LOOPBACK, QUICK, FakeBackend, running
from tests.support.tls import CertificateAuthority
from tests.support.waiting import eventually
from zkdns.address import HostPort
from zkdns.admin.api_types import Flushed
from zkdns.admin.client import ApiClient, ServerAddress, UnreachableError
from zkdns.admin.connections import MAX_CONNECTIONS
from zkdns.admin.server import AdminServer
from zkdns.errors import BadValueError
from zkdns.transport.tls import Tls

TOKEN = "a-token-of-16-characters"  # noqa: S105 - of this test

IDLE = 5.0  # seconds for a handshake


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path)


@pytest.fixture
def certificate(authority: CertificateAuthority) -> str:
    return str(authority.sign("127.0.0.1"))


@contextlib.contextmanager
def serving_tls(certificate: str, backend: FakeBackend | None = None) -> Iterator[HostPort]:
    timing = msgspec.structs.replace(QUICK, idle=IDLE)
    server = AdminServer(LOOPBACK, timing=timing, tls=Tls(certificate, None))
    with running(server, backend) as at:
        assert isinstance(at, HostPort)
        yield at


def client(at: HostPort, token: str | None = None) -> ApiClient:
    return ApiClient(ServerAddress(at=at, tls=True), token)


def test_requests_over_tls(
    authority: CertificateAuthority, certificate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    many = [b"x" * 99_999 + b"\n"] * 30
    with serving_tls(certificate, FakeBackend(token_file=str(token), pieces=many)) as at:
        assert client(at).status().version == "1"
        assert client(at, TOKEN).post("flush", Flushed) == Flushed(1, 1)
        assert sum(map(len, client(at).lines("members"))) == 30 * 99_999


def test_a_certificate_of_an_unknown_authority_is_refused(certificate: str) -> None:
    with serving_tls(certificate) as at, pytest.raises(UnreachableError, match="is not accepted: ") as caught:
        client(at).status()
    assert "SSL_CERT_FILE can name the file of its CA" in str(caught.value)


def test_a_plain_request_gets_no_response(certificate: str) -> None:
    with serving_tls(certificate) as at, pytest.raises(UnreachableError) as caught:
        ApiClient(ServerAddress(at=at)).status()
    assert str(caught.value).endswith(f"is it a zkdns server? (or use https://{at})")


def test_a_certificate_of_another_host_is_refused(
    authority: CertificateAuthority, certificate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with serving_tls(certificate) as at, pytest.raises(UnreachableError) as caught:
        client(HostPort("localhost", at.port)).status()
    assert str(caught.value).endswith(
        "certificate is not valid for 'localhost'; use a URL with a name that it has"
    )


def test_https_to_a_plain_server_is_an_error() -> None:
    with running(AdminServer(LOOPBACK)) as at:
        assert isinstance(at, HostPort)
        with pytest.raises(UnreachableError, match=r"cannot be reached: TLS fails \("):
            client(at).status()


def test_a_client_that_sends_its_end_first_gets_its_response(
    authority: CertificateAuthority, certificate: str
) -> None:
    context = ssl.create_default_context(cafile=str(authority.file))
    with (
        serving_tls(certificate) as at,
        socket.create_connection((at.host, at.port), 5) as sock,
        context.wrap_socket(sock, server_hostname="127.0.0.1") as wrapped,
    ):
        wrapped.sendall(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        received = b""
        while more := wrapped.recv(65536):
            received += more
    assert received.endswith(b"ready\n")


def test_handshakes_that_do_not_end_are_limited_in_number_and_time(
    authority: CertificateAuthority, certificate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with serving_tls(certificate) as at, contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection((at.host, at.port), 3 * IDLE))
            for _ in range(MAX_CONNECTIONS)
        ]
        # One more is closed at once, and the others when their time is over.
        more = stack.enter_context(socket.create_connection((at.host, at.port), IDLE - 1.0))
        for sock in (more, *silent):
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
        assert client(at).status().version == "1"


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path: path.unlink(), "no such file or directory"),
        (lambda path: path.write_text("x"), "name PEM files of a certificate"),
        (lambda path: path.chmod(0o644), "is accessible to every user"),
    ],
)
def test_unusable_files_are_errors(certificate: str, make: object, error: str) -> None:
    assert callable(make)
    make(Path(certificate))
    with pytest.raises(BadValueError, match=error):
        Tls(certificate, None)


def test_a_key_with_a_password_is_an_error(authority: CertificateAuthority) -> None:
    with pytest.raises(BadValueError, match="without a password"):
        Tls(str(authority.sign("127.0.0.1", password=b"secret")), None)


def test_a_renewed_certificate_is_used(
    authority: CertificateAuthority, certificate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unusable one is logged, and the previous one is used."""
    monkeypatch.setattr("zkdns.transport.tls.RENEW_SECONDS", 0.02)
    new_directory = tmp_path / "new"
    new_directory.mkdir()
    renewed = CertificateAuthority(new_directory)
    with capture_logs() as logs, serving_tls(certificate) as at:

        def is_trusted(by: CertificateAuthority) -> bool:
            monkeypatch.setenv("SSL_CERT_FILE", str(by.file))
            try:
                return client(at).get("status", dict[str, object])["version"] == "1"
            except UnreachableError:
                return False

        assert is_trusted(authority)
        Path(certificate).write_text("x")
        eventually(lambda: [entry for entry in logs if entry["event"] == "certificate_refused"])
        assert is_trusted(authority)
        os.replace(shutil.copy2(renewed.sign("127.0.0.1"), tmp_path / "copy"), certificate)  # noqa: PTH105
        eventually(lambda: is_trusted(renewed))
        assert not is_trusted(authority)
