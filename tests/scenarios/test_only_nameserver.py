"""zkdns with forwarding as the only name server of a machine: programs find services and all other names.

Other names are in a small DNS hierarchy in a separate network.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dns_hierarchy import dns_hierarchy, skip_without_programs
from tests.support.machine import Machine
from tests.support.network import ip, new_network
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.web import WebServer

pytestmark = pytest.mark.processes

SERVICE, SITE, ALIAS = "web.staging.discovery", "www.example", "files.example"
# Options of resolv.conf(5) that change how glibc sends queries.
OPTIONS = ("", "options edns0 trust-ad", "options use-vc", "options single-request", "options rotate")

_RECORDS = """\
    www.example.      A      127.0.0.20
    www.example.      AAAA   ::1
    files.example.    CNAME  far.mirror.example.
    far.mirror.example. CNAME  www.example.
    old.example.      TXT    "has no address"
    backend.example.  A      127.0.0.10
    mail.example.     MX     10 www.example.
"""


class WebMachine(Machine):
    """The machine, with the web servers of a service and of an Internet name."""

    def __init__(self, directory: Path, web: list[WebServer]) -> None:
        super().__init__(directory)
        self.web = web


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebMachine]:
    skip_without_programs()
    if shutil.which("getent") is None or shutil.which("curl") is None:
        pytest.skip("needs getent and curl")
    directory = tmp_path_factory.mktemp("machine")
    services = directory / "services.toml"
    with (
        new_network() as network,
        network.entered(),
        with_ipv4(),
        dns_hierarchy(directory, _RECORDS) as upstream,
        WebServer("127.0.0.10") as service,
        WebServer("127.0.0.20") as site,
    ):
        services.write_text(
            f'[services."web.staging"]\nmembers = ["{service.endpoint}"]\n'
            '[services."named.staging"]\nmembers = ["backend.example:80"]\n'
        )
        arguments = ("--static", str(services), "--listen", "127.0.0.1:53", "--upstream", upstream)
        with ZkdnsServer(*arguments) as server:
            server.wait_ready()
            # The host name of a member is resolved after the start.
            eventually(lambda: server.lookup("named.staging.discovery"))
            yield WebMachine(directory, [service, site])


@pytest.fixture
def machine(running: WebMachine) -> WebMachine:
    running.configure()
    return running


@contextlib.contextmanager
def with_ipv4() -> Iterator[None]:
    """Add an IPv4 address. Without one, some programs do not look up A records (getaddrinfo(3))."""
    ip("addr add 192.0.2.99/32 dev lo")
    yield


def addresses(output: str) -> set[str]:
    """The addresses in the output of `getent`."""
    return {line.split()[0] for line in output.splitlines()}


@pytest.mark.parametrize("options", OPTIONS)
def test_getent_finds_services_and_other_names(machine: WebMachine, options: str) -> None:
    machine.configure(options)
    for name, found in (
        (SERVICE, {"127.0.0.10"}),
        ("web", {"127.0.0.10"}),  # by the search list
        (SITE, {"127.0.0.20"}),
        (ALIAS, {"127.0.0.20"}),
        ("named.staging.discovery", {"127.0.0.10"}),
    ):
        assert addresses(machine.output("getent", "ahosts", name)) == found, name
    assert machine.output("getent", "hosts", SERVICE).split() == ["127.0.0.10", SERVICE]
    first = machine.output("getent", "ahostsv4", ALIAS).splitlines()[0]
    assert first.split() == ["127.0.0.20", "STREAM", SITE]
    for name in ("none.staging.discovery", "none.example", "old.example", "nobody.such"):
        assert machine.run("getent", "ahosts", name).returncode == 2, name


def test_curl_reaches_services_and_other_hosts(machine: WebMachine) -> None:
    service, site = machine.web
    for name, web in ((SERVICE, service), (SITE, site), (ALIAS, site)):
        url = f"http://{name}:{web.server_port}/"
        assert machine.output("curl", "--silent", "--fail", "--noproxy", "*", "-4", url) == web.endpoint
        assert web.requests[-1].host == f"{name}:{web.server_port}"
    failed = machine.run("curl", "--silent", "--noproxy", "*", f"http://none.example:{site.server_port}/")
    assert failed.returncode == 6  # it could not resolve the name


_GETADDRINFO = """
import socket, sys
for name in sys.argv[1:]:
    try:
        found = socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        print(name, {socket.EAI_NONAME: "none", socket.EAI_NODATA: "no data"}.get(error.errno, error))
    else:
        print(name, *sorted({entry[4][0] for entry in found}))
"""


def test_getaddrinfo_of_python_resolves_names_and_reports_missing_ones(machine: WebMachine) -> None:
    names = [SERVICE, SITE, ALIAS, "none.staging.discovery", "none.example"]
    assert machine.python(_GETADDRINFO, *names).splitlines() == [
        f"{SERVICE} 127.0.0.10",
        f"{SITE} 127.0.0.20 ::1",
        f"{ALIAS} 127.0.0.20 ::1",
        "none.staging.discovery none",
        "none.example none",
    ]


_DOWNLOAD = """
import sys, threading, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
found = {}
def fetch(url):
    found[url] = opener.open(url, timeout=10).read().decode()
threads = [threading.Thread(target=fetch, args=(url,)) for url in sys.argv[1:] for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for url in sys.argv[1:]:
    print(found[url])
"""


def test_parallel_downloads_from_services_and_other_hosts(machine: WebMachine) -> None:
    service, site = machine.web
    urls = [f"http://{name}:{site.server_port}/simple/{name}/" for name in (SITE, ALIAS)]
    urls.append(f"http://{SERVICE}:{service.server_port}/")
    assert machine.python(_DOWNLOAD, *urls).split() == [site.endpoint, site.endpoint, service.endpoint]


def test_other_record_types_are_forwarded(machine: WebMachine) -> None:
    dig = ("dig", "+short", "+tries=1")
    assert machine.output(*dig, "mail.example", "MX").strip() == "10 www.example."
    assert machine.output(*dig, "old.example", "TXT").strip() == '"has no address"'
    assert machine.output(*dig, "-x", "127.0.0.20").strip() == ""
    port = machine.web[0].server_port
    assert machine.output(*dig, SERVICE, "SRV").split()[2:] == [str(port), f"m0.{SERVICE}."]
