"""DNS over TLS and zone transfers over TLS (RFC 7858, RFC 9103) with real servers and clients."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dns.edns
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cli import run
from tests.scenarios.reloadable import MEMBERS, WEB, ReloadableServer
from tests.support.loopback import free_port
from tests.support.secondaries import PRIMARY_NAME, Bind, Nsd, Secondary
from tests.support.server import ZkdnsServer
from tests.support.tls import CertificateAuthority
from tests.support.transfers import ALLOWED, KEY_NAME, KEYS, SECRET, ZONE, Primary
from tests.support.upstream import UpstreamServer
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.processes

SECONDS = PATIENCE


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    directory = tmp_path / "authority"
    directory.mkdir()
    return CertificateAuthority(directory)


def tls_settings(certificate: Path, *ports: int) -> dict[str, object]:
    return {"listen": [f"127.0.0.1:{port}" for port in ports or (0,)], "certificate": str(certificate)}


def ask(
    server: ZkdnsServer, authority: CertificateAuthority, name: str = WEB, number: int = -1
) -> dns.message.Message:
    """The response to a query over TLS; the certificate is verified."""
    context = ssl.create_default_context(cafile=str(authority.file))
    return send_over_tls(server, context, dns.message.make_query(name, "A"), number)


def send_over_tls(
    server: ZkdnsServer, context: ssl.SSLContext, query: dns.message.Message, number: int = -1
) -> dns.message.Message:
    host, port = server.tls_addresses[number]
    return dns.query.tls(query, host, SECONDS, port=port, ssl_context=context, server_hostname="127.0.0.1")


def addresses_in(response: dns.message.Message) -> set[str]:
    return {str(record) for rrset in response.answer for record in rrset}


def metric(server: ZkdnsServer, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels, of all workers."""
    text = httpx2.get(f"{server.admin}/metrics", timeout=20.0).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def is_refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False


# -- queries ------------------------------------------------------------------------------------------------


def test_queries_over_tls_are_answered_counted_and_logged(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    certificate = authority.sign("127.0.0.1")
    tls = tls_settings(certificate)
    with ReloadableServer(tmp_path, tls=tls, workers=2, log={"level": "debug", "queries": 1}) as server:
        server.wait_ready()
        for _ in range(3):
            assert addresses_in(ask(server, authority)) == set(MEMBERS)
        assert ask(server, authority, "none.staging.discovery").rcode() == dns.rcode.NXDOMAIN
        (host, port) = server.tls_addresses[0]
        status = httpx2.get(f"{server.admin}/api/status", timeout=20.0).json()
        assert status["listening_tls"] == [f"{host}:{port}"]
        assert f"{host}:{port}" not in status["listening"]
        eventually(lambda: metric(server, "zkdns_tls_handshakes_total") == 4)
        assert server.lookup(WEB, tcp=True) == set(MEMBERS)
        eventually(lambda: metric(server, "zkdns_queries_total", transport="tcp") == 1)
        assert metric(server, "zkdns_queries_total", transport="tls") == 4
        assert metric(server, "zkdns_responses_total", transport="tls", rcode="NXDOMAIN") == 1
        assert [entry["transport"] for entry in server.events("query_answered")] == ["tls"] * 4 + ["tcp"]


def test_a_flood_of_unfinished_handshakes_delays_no_other_query(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    with (
        ReloadableServer(tmp_path, tls=tls_settings(authority.sign("127.0.0.1"))) as server,
        ExitStack() as stack,
    ):
        server.wait_ready()
        for number in range(300):
            sock = stack.enter_context(socket.create_connection(server.tls_addresses[0], SECONDS))
            sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
            if not number % 20:
                assert server.lookup(WEB) == set(MEMBERS)
                assert addresses_in(ask(server, authority)) == set(MEMBERS)
        eventually(lambda: metric(server, "zkdns_tls_failed_handshakes_total") >= 150)


def test_kdig_verifies_the_certificate(tmp_path: Path, authority: CertificateAuthority) -> None:
    kdig = shutil.which("kdig")
    if kdig is None:
        pytest.skip("needs kdig (Debian and Ubuntu: apt install knot-dnsutils)")
    with ReloadableServer(tmp_path, tls=tls_settings(authority.sign(PRIMARY_NAME))) as server:
        server.wait_ready()
        host, port = server.tls_addresses[0]

        def dig(name: str) -> str:
            options = ["+tls", f"+tls-ca={authority.file}", f"+tls-hostname={name}", "+short"]
            command = [kdig, f"@{host}", "-p", str(port), *options, WEB, "A"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30.0, check=False)
            return done.stdout + done.stderr

        assert set(dig(PRIMARY_NAME).split()) == set(MEMBERS)
        assert "handshake failed" in dig("other.example.com")


def test_dns_41_responses_over_tls_are_padded_on_request(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    """Answers from the table and forwarded ones, with and without a cookie. Others are not padded."""
    certificate = authority.sign("127.0.0.1")
    context = ssl.create_default_context(cafile=str(authority.file))
    cookie = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"clients!")
    without_and_with_cookie: list[list[dns.edns.Option]] = [[], [cookie]]
    with UpstreamServer() as upstream:
        forward = {"upstreams": [str(upstream.address)]}
        server = ReloadableServer(tmp_path, tls=tls_settings(certificate), forward=forward)
        del server.environment["ZKDNS_UPSTREAM"]
        with server:
            server.wait_ready()
            for name in (WEB, "forwarded.example"):
                for options in without_and_with_cookie:
                    padded = dns.message.make_query(name, "A", use_edns=0, options=options, pad=128)
                    plain = dns.message.make_query(name, "A", use_edns=0, options=options)
                    over_tls = [send_over_tls(server, context, query) for query in (padded, plain)]
                    host, port = server.addresses[0]
                    over_tcp = dns.query.tcp(padded, host, SECONDS, port)
                    sizes = [len(response.wire or b"") for response in (*over_tls, over_tcp)]
                    assert sizes[0] == 468
                    assert max(sizes[1:]) < 200
                    assert over_tls[0].answer == over_tls[1].answer
                    assert over_tls[0].rcode() == dns.rcode.NOERROR


# -- certificates and reloads -------------------------------------------------------------------------------


def test_addresses_for_tls_change_with_a_reload(tmp_path: Path, authority: CertificateAuthority) -> None:
    certificate = authority.sign("127.0.0.1")
    first, second = free_port(), free_port()
    with ReloadableServer(tmp_path) as server:
        server.wait_ready()
        server.write(tls=tls_settings(certificate, first))
        assert "tls.listen" in str(server.reload()["settings"])
        assert addresses_in(ask(server, authority)) == set(MEMBERS)
        server.write(tls=tls_settings(certificate, first, second), workers=2)
        server.reload()
        for number in (0, 1):
            for _ in range(8):  # by both workers
                assert addresses_in(ask(server, authority, number=number)) == set(MEMBERS)
        server.write(tls=tls_settings(certificate, second))
        server.reload()
        assert addresses_in(ask(server, authority, number=1)) == set(MEMBERS)
        eventually(lambda: is_refused(server.tls_addresses[0]))
        server.write()
        server.reload()
        eventually(lambda: is_refused(server.tls_addresses[1]))
        closed = [entry["address"] for entry in server.events("listener_closed")]
        assert closed == [f"127.0.0.1:{first}", f"127.0.0.1:{second}"]
        assert server.lookup(WEB) == set(MEMBERS)


def test_an_unusable_certificate_is_refused_and_never_stops_dns(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    """A reload is refused. A worker that has to be restarted meanwhile serves UDP and TCP."""
    certificate = authority.sign("127.0.0.1")
    with ReloadableServer(tmp_path, tls=tls_settings(certificate)) as server:
        server.wait_ready()
        server.write(tls=tls_settings(authority.file))
        server.send_sighup()
        (refused, *_) = eventually(lambda: server.events("reload_refused"))
        assert "cannot be used with its key" in refused["reason"]
        assert addresses_in(ask(server, authority)) == set(MEMBERS)

        certificate.write_text("damaged")
        worker = server.pid_of("worker")
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: server.pid_of("worker") != worker)
        eventually(lambda: server.events("certificate_refused"))
        for tcp in (False, True):
            assert server.lookup(WEB, tcp=tcp, timeout=20.0) == set(MEMBERS)
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
            ask(server, authority)


def test_check_and_doctor_report_the_certificate(tmp_path: Path, authority: CertificateAuthority) -> None:
    certificate, other = authority.sign("127.0.0.1"), authority.sign("other")
    port = free_port()
    check = ("check", "--demo", "--tls-listen", f"127.0.0.1:{port}", "--tls-certificate", str(certificate))
    assert f"over TLS at 127.0.0.1:{port}" in run(*check).output
    mismatch = run(*check, "--tls-key", str(other))
    assert mismatch.status == 2
    assert f"{certificate}: cannot be used with its key" in mismatch.errors
    missing = run(*check, "--tls-key", str(tmp_path / "none"))
    assert "no such file" in missing.errors
    with ReloadableServer(tmp_path, tls=tls_settings(certificate, port)) as server:
        server.wait_ready()
        output = run("doctor", "--config", str(server.file), "--admin-socket", server.api).output
        about = f"ok       127.0.0.1:{port} over TLS"
        assert f"ok       port 127.0.0.1:{port}/tcp: zkdns has it" in output
        assert f"{about}: presents a certificate that is valid until 3000-" in output
        assert f"{about}: responds" in output


# -- zone transfers -----------------------------------------------------------------------------------------


class TlsPrimary(Primary):
    """A primary that permits transfers over TLS only.

    Args:
        directory: for its files.
        certificate: for DNS over TLS.
        transfer: further content of the section `[transfer]`.
    """

    def __init__(self, directory: Path, certificate: Path, transfer: str = ALLOWED) -> None:
        tls = ("--tls-listen", "127.0.0.1:0", "--tls-certificate", str(certificate))
        super().__init__(directory, f"require_tls = true\n{transfer}", *tls)


class TlsSecondary(ZkdnsServer):
    """A zkdns that follows a primary over TLS."""

    def __init__(self, primary: ZkdnsServer, ca: Path, name: str = PRIMARY_NAME, *arguments: str) -> None:
        _, port = primary.tls_addresses[0]
        options = ("--primary", f"tls://127.0.0.1:{port}#{name}", "--primary-ca", str(ca))
        super().__init__(*options, "--primary-refresh", "1", *arguments)


def test_a_secondary_follows_over_tls(tmp_path: Path, authority: CertificateAuthority) -> None:
    with TlsPrimary(tmp_path, authority.sign(PRIMARY_NAME)) as primary:
        primary.wait_transferable()
        with TlsSecondary(primary, authority.file) as secondary:
            secondary.wait_ready()
            for number in (7, 8):
                primary.write({"web.staging": [f"10.0.0.{number}:80"]})
                eventually(lambda: secondary.lookup(WEB) == {f"10.0.0.{number}"})  # noqa: B023 - as above
            assert secondary.events("zone_transferred")[-1]["kind"] == "incremental"
            assert not secondary.events("primary_failed")
        assert not primary.events("transfer_refused")


def test_a_secondary_signs_over_tls(tmp_path: Path, authority: CertificateAuthority) -> None:
    with TlsPrimary(tmp_path, authority.sign(PRIMARY_NAME), KEYS) as primary:
        primary.wait_transferable()
        config = tmp_path / "secondary.toml"
        config.write_text(f'[primary.key]\nname = "{KEY_NAME}"\nsecret = "{SECRET}"\n')
        with TlsSecondary(primary, authority.file, PRIMARY_NAME, "--config", str(config)) as secondary:
            secondary.wait_ready()
            eventually(lambda: secondary.lookup(WEB) == {"10.0.0.1", "10.0.0.2"})


@pytest.mark.parametrize("fault", ["name", "authority", "expired", "no TLS"])
def test_a_secondary_refuses_other_primaries(
    tmp_path: Path, authority: CertificateAuthority, fault: str
) -> None:
    end = datetime.now(tz=UTC) - timedelta(days=1) if fault == "expired" else None
    ca, name = authority.file, PRIMARY_NAME
    if fault == "authority":
        directory = tmp_path / "other"
        directory.mkdir()
        ca = CertificateAuthority(directory).file
    if fault == "name":
        name = "ns2.example.com"
    with TlsPrimary(tmp_path, authority.sign(PRIMARY_NAME, end=end)) as primary:
        primary.wait_transferable()
        if fault == "no TLS":
            host, port = primary.addresses[0]
            secondary = ZkdnsServer("--primary", f"tls://{host}:{port}#{name}", "--primary-ca", str(ca))
        else:
            secondary = TlsSecondary(primary, ca, name)
        with secondary:
            (failed, *_) = eventually(lambda: secondary.events("primary_failed"))
            assert REASONS[fault] in failed["reason"]
            assert not secondary.events("zone_transferred")


REASONS = {
    "name": "certificate is not valid for 'ns2.example.com'",
    "authority": "unable to get local issuer certificate",
    "expired": "certificate has expired",
    "no TLS": "it does not respond",
}


def test_dns_40_transfers_without_tls_are_refused(tmp_path: Path, authority: CertificateAuthority) -> None:
    with TlsPrimary(tmp_path, authority.sign("127.0.0.1")) as primary:
        primary.wait_transferable()
        query = dns.message.make_query(ZONE, "AXFR", use_edns=0)
        host, port = primary.addresses[0]
        response = dns.query.tcp(query, host, port=port, timeout=SECONDS)
        assert response.rcode() == dns.rcode.REFUSED
        assert [option.code for option in response.options] == [18]
        (refused,) = primary.events("transfer_refused")
        assert "transfer.require_tls" in refused["reason"]

        # RFC 9103 §7.1 requires the protocol dot.
        host, port = primary.tls_addresses[0]
        for alpn, rcode in ((["dot"], dns.rcode.NOERROR), ([], dns.rcode.REFUSED)):
            context = ssl.create_default_context(cafile=str(authority.file))
            if alpn:
                context.set_alpn_protocols(alpn)
            response = dns.query.tls(
                query,
                host,
                SECONDS,
                port=port,
                ssl_context=context,
                server_hostname="127.0.0.1",
                one_rr_per_rrset=True,
            )
            assert response.rcode() == rcode
        assert response.answer == []


@pytest.mark.parametrize("kind", [Nsd, Bind], ids=lambda kind: kind.name)
def test_other_secondaries_follow_over_tls(
    kind: type[Secondary], tmp_path: Path, authority: CertificateAuthority
) -> None:
    """They use the examples of the page `zone-transfer`."""
    secondary = kind(tmp_path, ca=authority.file)
    transfer = f'{ALLOWED}notify = ["127.0.0.1:{secondary.port}"]\n'
    with TlsPrimary(tmp_path, authority.sign(PRIMARY_NAME), transfer) as server:
        server.wait_transferable()
        _, secondary.primary = server.tls_addresses[0]
        with secondary:
            for number in range(3):
                before = server.serial()
                server.write({"web.staging": [f"10.0.{number}.1:80"], "db.prod": ["10.1.0.1:5432"]})
                eventually(lambda: server.serial() != before, PATIENCE)  # noqa: B023 - called in this iteration
                eventually(lambda: secondary.serial() == server.serial(), PATIENCE)
                secondary.wait_for_records({(f"{WEB}.", "A", 5, f"10.0.{number}.1")})
        assert not server.events("transfer_refused")
