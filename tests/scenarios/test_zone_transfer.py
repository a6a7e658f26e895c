"""Zone transfers out of a real server, by dnspython and dig."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.xfr
import dns.zone
import pytest

from tests.cli import run
from tests.support.transfers import (
    ALLOWED,
    KEY,
    KEY_NAME,
    KEYS,
    SECRET,
    ZONE,
    Primary,
    records_of,
    serial_of,
    transfer,
)
from tests.support.waiting import eventually

pytestmark = pytest.mark.processes

PROHIBITED = 18


def dig(server: Primary, *arguments: str) -> str:
    """The output of dig."""
    host, port = server.addresses[0]
    command = ["dig", f"@{host}", "-p", str(port), "+time=5", "+tries=1", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=30).stdout


def test_axfr_has_the_records_of_the_zone_file(tmp_path: Path) -> None:
    with Primary(tmp_path) as server:
        server.wait_transferable()
        zone = transfer(server)
        dumped = run("dump", "--zone", ZONE, "--server", server.api)
        assert records_of(zone) == records_of(dns.zone.from_text(dumped.output, ZONE, relativize=False))
        assert serial_of(zone) == server.serial()


def test_ixfr_follows_each_change(tmp_path: Path) -> None:
    with Primary(tmp_path) as server:
        server.wait_transferable()
        zone = transfer(server)
        for number in range(3, 8):
            before = serial_of(zone)
            server.write({"web.staging": [f"10.0.0.{number}:80"]})
            eventually(lambda: server.serial() != before)  # noqa: B023 - called in this iteration
            eventually(lambda: serial_of(transfer(server, zone)) != before)  # noqa: B023 - as above
            assert records_of(zone) == records_of(transfer(server))
            assert server.lookup("web.staging.discovery") == {f"10.0.0.{number}"}
            found = {rdata.to_text() for _, _, rdata in zone.iterate_rdatas("A")}
            assert found == {f"10.0.0.{number}"}


def test_a_signed_transfer_needs_no_permitted_network(tmp_path: Path) -> None:
    with Primary(tmp_path, KEYS) as server:
        server.wait_transferable()
        zone = transfer(server, keyring=KEY)
        assert len(records_of(zone)) > 3
        with pytest.raises(dns.xfr.TransferError):
            transfer(server)


def test_dig_transfers_the_zone_with_and_without_a_key(tmp_path: Path) -> None:
    with Primary(tmp_path, ALLOWED + KEYS) as server:
        server.wait_transferable()
        key = ("-y", f"hmac-sha256:{KEY_NAME}:{SECRET}")
        for more in ((), key):
            assert "XFR size: " in dig(server, ZONE, "AXFR", *more)
            assert "XFR size: " in dig(server, ZONE, "IXFR=1", *more)
        signed = dig(server, ZONE, "SOA", *key)
        assert "status: NOERROR" in signed
        assert "could not be validated" not in signed


def test_a_stranger_is_refused_with_the_reason(tmp_path: Path) -> None:
    with Primary(tmp_path, 'allow = ["10.9.9.9"]\n') as server:
        server.wait_transferable()
        for _ in range(2):
            response = server.query(ZONE, "AXFR", tcp=True, use_edns=0)
            assert response.rcode() == dns.rcode.REFUSED
            (option,) = [each for each in response.options if each.otype == dns.edns.OptionType.EDE]
            assert option.code == PROHIBITED
        (refused,) = server.events("transfer_refused")  # once for each client
        assert (refused["client"], refused["zone"]) == ("127.0.0.1", "discovery")


def test_other_zones_are_not_authoritative(tmp_path: Path) -> None:
    with Primary(tmp_path) as server:
        server.wait_transferable()
        for name in ("example.com.", "staging.discovery.", "web.staging.discovery."):
            assert server.query(name, "AXFR", tcp=True).rcode() == dns.rcode.NOTAUTH


def test_queries_and_transfers_share_a_connection(tmp_path: Path) -> None:
    """A transfer has the connection to itself; queries after it are answered when it has ended."""
    questions = ((ZONE, "AXFR"), ("web.staging.discovery", "A"), (ZONE, "AXFR"), (ZONE, "SOA"))
    with Primary(tmp_path) as server:
        server.wait_transferable()
        with socket.create_connection(server.addresses[0], timeout=10.0) as sock:
            for name, qtype in questions:
                dns.query.send_tcp(sock, dns.message.make_query(name, qtype))
            responses = [dns.query.receive_tcp(sock, one_rr_per_rrset=True)[0] for _ in questions]
        assert [dns.rdatatype.to_text(each.question[0].rdtype) for each in responses] == [
            qtype for _, qtype in questions
        ]
