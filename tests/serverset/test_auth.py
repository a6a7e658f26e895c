"""Authentication and TLS: credentials files and their errors, then real servers that require them."""

import logging
import socket
import ssl
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient, KeeperState
from kazoo.exceptions import NoAuthError
from kazoo.security import OPEN_ACL_UNSAFE, make_acl, make_digest_acl

from tests.support.tls import CertificateAuthority
from tests.support.waiting import eventually
from tests.support.zookeeper import Ensemble, ZooKeeperServer
from zkdns import ServerSet
from zkdns.config import ZooKeeperSettings
from zkdns.errors import ConfigError, ZooKeeperError
from zkdns.serverset.auth import ANONYMOUS, Access, Sasl, Secret, load_access
from zkdns.serverset.client import make_client
from zkdns.serverset.kazoo_ext import has_ended_thread
from zkdns.serverset.reachability import Diagnosis

DIGEST_MD5 = '[sasl]\nmechanism = "DIGEST-MD5"\nusername = "alice"\npassword = "wonderland"'
HIDDEN = "(the value is not shown here)"


def describe(hosts: str, tls: ssl.SSLContext | None = None) -> str:
    """The causes why servers give no session."""
    return Diagnosis(hosts, tls).wait().describe()


def credentials(directory: Path, text: str, mode: int = 0o600) -> str:
    """Write a credentials file."""
    file = directory / "zookeeper.toml"
    file.touch(0o600)
    file.write_text(text)
    file.chmod(mode)
    return str(file)


def load(**settings: Any) -> Access:
    """Load these settings of the section [zookeeper]."""
    return load_access(ZooKeeperSettings(**settings))


def load_errors(**settings: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(**settings)
    return list(caught.value.errors)


# -- files ------------------------------------------------------------------------------------------------


def test_a_credentials_file_is_read(tmp_path: Path) -> None:
    file = credentials(tmp_path, f'digest = ["a:b", "c:d:e"]\n{DIGEST_MD5}')
    assert load(credentials=file) == Access(
        digests=(Secret("a:b"), Secret("c:d:e")), sasl=Sasl("DIGEST-MD5", "alice", Secret("wonderland"))
    )
    one = credentials(tmp_path, 'digest = "a:b"')
    assert load(credentials=one) == Access(digests=(Secret("a:b"),))
    assert load() == ANONYMOUS


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    access = load(credentials=credentials(tmp_path, f'digest = "a:looking"\n{DIGEST_MD5}'))
    client = make_client("127.0.0.1:1", access=access)
    assert access.sasl is not None
    for shown in (repr(access), str(access), str(access.sasl), str(list(access.__rich_repr__()))):
        assert "looking" not in shown
        assert "wonderland" not in shown
    assert client.auth_data == {("digest", "a:looking")}


@pytest.mark.parametrize(
    ("text", "expected_errors"),
    [
        ("", ["contains no credentials; write digest, [sasl] or key_password"]),
        ("digest = ", ["is not TOML: "]),
        ("digest = 4711", [f"digest: is not a secret; write text in quotes {HIDDEN}"]),
        ('digest = "4711"', [f'digest: is not a digest; write "USER:PASSWORD" or a list of them {HIDDEN}']),
        ('digest = ["a:b", "4711:"]', ["digest: is not a digest; "]),
        ('digset = "4711"', ["unknown key 'digset'; did you mean digest?"]),
        ("key_password = 4711", ["key_password: is not a secret; "]),
        ('sasl = "4711"', ["sasl: is not a table; "]),
        ("[sasl]", ["sasl: has no mechanism; write DIGEST-MD5 or GSSAPI", "sasl: is incomplete, "]),
        ('[sasl]\nmechanism = "PLAIN"', ["sasl.mechanism: is 'PLAIN'; ", "sasl: is incomplete, "]),
        (
            '[sasl]\nmechanism = "DIGEST-MD5"\nuser = "4711"\nprincipal = "x"',
            [
                "sasl: unknown key 'user'; did you mean username?",
                "sasl: has no password, which DIGEST-MD5 needs",
                "sasl: has no username, which DIGEST-MD5 needs",
                "sasl.principal: is not used by DIGEST-MD5",
                "sasl: is incomplete, so it is not used",
            ],
        ),
        (
            '[sasl]\nmechanism = "DIGEST-MD5"\nusername = "a"\npassword = 4711',
            ["sasl.password: is not a secret; ", "sasl: is incomplete, "],
        ),
    ],
)
def test_every_error_is_reported_without_its_value(
    tmp_path: Path, text: str, expected_errors: list[str]
) -> None:
    file = credentials(tmp_path, text)
    found = load_errors(credentials=file)
    assert len(found) == len(expected_errors)
    for error, expected in zip(found, expected_errors, strict=True):
        assert error.startswith(f"{file}: {expected}")
        assert "4711" not in error


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602])
def test_a_world_accessible_file_is_rejected(tmp_path: Path, mode: int) -> None:
    file = credentials(tmp_path, 'digest = "a:b"', mode)
    (error,) = load_errors(credentials=file)
    assert error == (
        f"{file}: is accessible to every user of this machine (mode {mode:04o}) and contains secrets; "
        "run chmod o-rwx on it"
    )
    assert load(credentials=credentials(tmp_path, 'digest = "a:b"', 0o640)).digests


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    (error,) = load_errors(credentials=str(tmp_path / "none"))
    assert error.startswith(f"{tmp_path}/none: cannot be read (no such file or directory)")


def test_sasl_without_its_package_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "puresasl", None)
    (error,) = load_errors(credentials=credentials(tmp_path, DIGEST_MD5))
    assert error.endswith("sasl: SASL needs pure-sasl: pip install 'zkdns[sasl]'")


def test_invalid_tls_files_are_rejected(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    own, other = authority.sign("a.example"), authority.sign("b.example")
    locked = authority.sign("c.example", password=b"4711")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("garbage")
    tls = {"tls": True, "ca": str(authority.file)}
    assert load(**tls).tls is not None
    assert "is not a file of CA certificates" in load_errors(**{**tls, "ca": str(garbage)})[0]
    assert "(no such file" in load_errors(**{**tls, "ca": str(tmp_path / "x")})[0]
    for certificate, key in ((own, other), (garbage, None), (locked, None)):
        pair = {"certificate": str(certificate), "key": key and str(key)}
        (error,) = load_errors(**tls, **pair)
        assert "cannot be used as certificate and key (" in error
    file = credentials(tmp_path, 'key_password = "4711"')
    assert load(**tls, certificate=str(locked), credentials=file).tls
    own.chmod(0o644)
    assert "is accessible to every user" in load_errors(**tls, certificate=str(own))[0]


# -- digest -----------------------------------------------------------------------------------------------


@pytest.mark.zookeeper
def test_a_digest_grants_access(
    zookeeper: ZooKeeperServer, zk_root: str, zk: KazooClient, tmp_path: Path
) -> None:
    zk.create(f"{zk_root}/test/web", makepath=True)
    acl = [
        make_digest_acl("zkdns", "open sesame", all=True),
        make_acl("world", "anyone", delete=True, admin=True),
    ]
    for path in (f"{zk_root}/test/web", f"{zk_root}/test", zk_root):
        zk.set_acls(path, acl)
    file = credentials(tmp_path, 'digest = ["other:x", "zkdns:open sesame"]')
    namespace = f"{zk_root}/{{environment}}/{{service}}"
    opened = load(credentials=file)

    def server_set(access: Access) -> ServerSet:
        return ServerSet("test", "web", zookeeper.address, namespace=namespace, access=access)

    try:
        with server_set(opened).register("10.0.0.1", 80), server_set(opened).watch() as watch:
            assert watch.endpoints == ("10.0.0.1:80",)
            with pytest.raises(ZooKeeperError, match="ACL does not permit"):
                server_set(ANONYMOUS).watch(timeout=10.0)
    finally:
        for path in (zk_root, f"{zk_root}/test", f"{zk_root}/test/web"):
            zk.set_acls(path, OPEN_ACL_UNSAFE)


# -- SASL -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sasl_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperServer]:
    """A server with the user alice."""
    jaas = tmp_path_factory.mktemp("sasl") / "jaas.conf"
    jaas.write_text(
        'Server { org.apache.zookeeper.server.auth.DigestLoginModule required user_alice="wonderland"; };\n'
    )
    provider = {"authProvider.1": "org.apache.zookeeper.server.auth.SASLAuthenticationProvider"}
    flags = (f"-Djava.security.auth.login.config={jaas}",)
    with ZooKeeperServer(settings=provider, jvm_flags=flags) as server:
        yield server


@pytest.mark.zookeeper
def test_sasl_grants_access(sasl_server: ZooKeeperServer, tmp_path: Path) -> None:
    access = load(credentials=credentials(tmp_path, DIGEST_MD5))
    alice, anybody = make_client(sasl_server.address, access=access), make_client(sasl_server.address)
    for client in (alice, anybody):
        client.start()
    try:
        alice.create("/alice", b"hers", acl=[make_acl("sasl", "alice", all=True)])
        assert alice.get("/alice")[0] == b"hers"
        with pytest.raises(NoAuthError):
            anybody.get("/alice")
    finally:
        for client in (alice, anybody):
            client.stop()
            client.close()


@pytest.mark.zookeeper
def test_after_a_wrong_password_another_client_may_try_again(
    sasl_server: ZooKeeperServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = load(credentials=credentials(tmp_path, DIGEST_MD5.replace("wonder", "Wonder")))
    client = make_client(sasl_server.address, access=wrong)
    seen: list[KeeperState] = []
    client.add_listener(lambda _: seen.append(client.client_state))
    client.start_async()
    try:
        eventually(lambda: KeeperState.AUTH_FAILED in seen or KeeperState.CLOSED in seen)
        eventually(lambda: has_ended_thread(client))
        assert not client.connected
    finally:
        client.stop()
        client.close()
    assert caplog.messages == [f"zkdns: zookeeper_authentication_failed zookeeper={sasl_server.address}"]
    assert "onderland" not in caplog.text
    right = load(credentials=credentials(tmp_path, DIGEST_MD5))
    again = make_client(sasl_server.address, access=right)
    again.start(timeout=10)
    again.stop()
    again.close()


# -- TLS --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls_server(authority: CertificateAuthority) -> Iterator[ZooKeeperServer]:
    """A server with a certificate for localhost that requires client certificates."""
    settings = authority.settings_for(authority.sign("localhost"), clients=True)
    with ZooKeeperServer(tls=settings) as server:
        yield server


def tls_settings(authority: CertificateAuthority, **settings: object) -> dict[str, Any]:
    return {
        "tls": True,
        "ca": str(authority.file),
        "certificate": str(authority.sign("client.example")),
        **settings,
    }


def test_data_buffered_by_tls_is_read_at_once(authority: CertificateAuthority) -> None:
    """With two messages in one TLS record, the kernel has no more data after the first one is read."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.sign("localhost"))
    here, there = socket.socketpair()
    wakeup, waker = socket.socketpair()
    with ThreadPoolExecutor(1) as pool, here, there, wakeup, waker:
        accepted = pool.submit(context.wrap_socket, there, server_side=True)
        trusting = ssl.create_default_context(cafile=authority.file)
        client = trusting.wrap_socket(here, server_hostname="localhost")
        server = accepted.result(10)
        with client, server:
            server.sendall(b"onetwo")
            assert client.recv(3) == b"one"
            client.setblocking(False)
            assert make_client("127.0.0.1:1").handler.select([client, wakeup], [], [], 5.0)[0] == [client]
            assert client.recv(3) == b"two"


@pytest.mark.zookeeper
def test_registering_and_watching_work_over_tls(
    authority: CertificateAuthority, tls_server: ZooKeeperServer
) -> None:
    access = load(**tls_settings(authority))
    client = make_client(f"localhost:{tls_server.secure_port}", access=access)
    client.start(timeout=15)
    try:
        client.create("/tls", b"x" * 100_000)
        requests = [client.get_async("/tls") for _ in range(50)]
        assert {request.get(timeout=20)[0] for request in requests} == {b"x" * 100_000}
        small = [client.exists_async("/tls") for _ in range(2000)]
        assert all(request.get(timeout=20) for request in small)
        assert "Mode: standalone" in client.command(b"srvr")
    finally:
        client.stop()
        client.close()


@pytest.mark.zookeeper
@pytest.mark.parametrize(
    ("host", "settings", "expected_errors"),
    [
        ("127.0.0.1", {}, "IP address mismatch, certificate is not valid for '127.0.0.1'."),
        ("localhost", {"ca": None}, "unable to get local issuer certificate"),
        ("127.0.0.1", {"verify_hostname": False}, None),
    ],
)
def test_a_server_certificate_must_match_the_host_name(
    authority: CertificateAuthority,
    tls_server: ZooKeeperServer,
    caplog: pytest.LogCaptureFixture,
    *,
    host: str,
    settings: dict[str, object],
    expected_errors: str | None,
) -> None:
    caplog.set_level(logging.WARNING)
    access = load(**tls_settings(authority, **settings))
    client = make_client(f"{host}:{tls_server.secure_port}", access=access)
    client.start_async()
    try:
        if expected_errors is None:
            eventually(lambda: client.connected, 15)
            return
        eventually(lambda: caplog.messages, 15)
        assert "zookeeper_certificate_refused" in caplog.text
        assert expected_errors in caplog.text
        assert not client.connected
    finally:
        client.stop()
        client.close()
    assert len(caplog.messages) == 1


@pytest.mark.zookeeper
def test_a_server_without_tls_is_logged(
    authority: CertificateAuthority, zookeeper: ZooKeeperServer, caplog: pytest.LogCaptureFixture
) -> None:
    access = load(**tls_settings(authority))
    sets = ServerSet("test", "web", zookeeper.address, access=access)
    with sets.watch(timeout=None):
        eventually(lambda: "zookeeper_tls_failed" in caplog.text)
        assert not sets.is_connected


@pytest.mark.zookeeper
def test_the_cause_of_a_failure_is_found_with_tls(
    authority: CertificateAuthority, tls_server: ZooKeeperServer
) -> None:
    own, other = load(**tls_settings(authority)).tls, load(tls=True).tls  # other: the system's authorities
    secure = f"localhost:{tls_server.secure_port}"
    assert describe(secure, own).startswith("it gives sessions now")
    assert describe(secure, other).startswith("its certificate is refused: ")
    assert describe(secure).endswith("or requires TLS")
    plain = f"localhost:{tls_server.port}"
    assert "its certificate" not in describe(plain, own)
    assert not describe(plain, own).startswith("it gives sessions now")


# -- read-only --------------------------------------------------------------------------------------------


@pytest.mark.zookeeper
def test_a_read_only_server_is_left_for_one_with_a_quorum() -> None:
    settings = {"localSessionsEnabled": "true", "localSessionsUpgradingEnabled": "true"}
    with Ensemble(settings=settings, jvm_flags=("-Dreadonlymode.enabled=true",)) as ensemble:
        client = make_client(ensemble.hosts, session_timeout=4.0, read_only=True)
        client.start(timeout=15)
        try:
            client.create("/kept", b"here")
            client.sync("/kept")
            for member in ensemble.members[:2]:
                member.kill()
            eventually(lambda: client.client_state == KeeperState.CONNECTED_RO, 30)
            assert client.get("/kept")[0] == b"here"
            ensemble.start()
            eventually(lambda: client.client_state == KeeperState.CONNECTED, 30)
            client.set("/kept", b"again")
        finally:
            client.stop()
            client.close()
