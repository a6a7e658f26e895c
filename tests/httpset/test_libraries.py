"""httpx, httpx2 and requests: each works alone and together with the others, with its own base class."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import httpx2
import pytest

import zkdns.httpset
from tests.support.web import WebServer, fixed, servers
from zkdns import BadValueError
from zkdns.httpset import AsyncTransport, Transport
from zkdns.httpset import httpx as for_httpx
from zkdns.httpset import httpx2 as for_httpx2


@pytest.fixture
def server() -> Iterator[WebServer]:
    with servers(1) as (started,):
        yield started


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_the_common_transport_serves_clients_of_both_at_once(library: Any, server: WebServer) -> None:
    transport = Transport(fixed([server]))
    assert isinstance(transport, library.BaseTransport)
    with library.Client(transport=transport) as client:
        response = client.get("http://web/health")
        assert isinstance(response, library.Response)
        assert response.text == server.endpoint
    for other in (httpx, httpx2):  # the other one's client may share it
        with other.Client(transport=transport) as client:
            assert client.get("http://web/").text == server.endpoint


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_the_common_asynchronous_transport_serves_clients_of_both(library: Any, server: WebServer) -> None:
    async def scenario() -> None:
        transport = AsyncTransport(fixed([server]))
        assert isinstance(transport, library.AsyncBaseTransport)
        async with library.AsyncClient(transport=transport) as client:
            assert (await client.get("http://web/")).text == server.endpoint

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("library", "module", "other"), [(httpx, for_httpx, httpx2), (httpx2, for_httpx2, httpx)]
)
def test_a_transport_of_one_library_names_the_right_one(
    library: Any, module: Any, other: Any, server: WebServer
) -> None:
    transport = module.Transport(fixed([server]))
    assert isinstance(transport, library.BaseTransport)
    assert not isinstance(transport, other.BaseTransport)
    with library.Client(transport=transport) as client:
        assert client.get("http://web/").text == server.endpoint
    with (
        other.Client(transport=transport) as client,
        pytest.raises(BadValueError, match=f"use the classes of zkdns.httpset.{other.__name__}$"),
    ):
        client.get("http://web/")


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_limits_of_either_library_are_accepted(library: Any, server: WebServer) -> None:
    limits = library.Limits(max_connections=1, max_keepalive_connections=0)
    for user in (httpx, httpx2):
        before = server.accepted
        with user.Client(transport=Transport(fixed([server]), limits=limits)) as client:
            for _ in range(2):
                client.get("http://web/")
        assert server.accepted == before + 2  # none is kept


def names_without(*missing: str, first: str = "") -> list[str]:
    """A line for each public name, in a process where these packages seem not to be installed."""
    program = f"""
import sys
for name in {missing!r}:
    sys.modules[name] = None
{first}
import zkdns.httpset
for name in ("Adapter", "AsyncTransport", "Transport"):
    try:
        found = getattr(zkdns.httpset, name)
    except ImportError as error:
        print(name, "-", type(error).__name__, error)
    else:
        packages = [base.__module__.partition(".")[0] for base in found.__bases__]
        print(name, *(package for package in packages if package != "zkdns"))
"""
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return ran.stdout.splitlines()


def test_each_library_works_without_the_others() -> None:
    adapter = "Adapter requests"
    needs_requests = (
        "Adapter - MissingExtraError zkdns.httpset.Adapter needs requests: pip install 'zkdns[requests]'"
    )
    assert names_without() == [adapter, "AsyncTransport httpx httpx2", "Transport httpx httpx2"]
    assert names_without("httpx2", "httpcore2") == [adapter, "AsyncTransport httpx", "Transport httpx"]
    assert names_without("httpx", "httpcore") == [adapter, "AsyncTransport httpx2", "Transport httpx2"]
    assert names_without("httpx", "requests", "urllib3") == [
        needs_requests,
        "AsyncTransport httpx2",
        "Transport httpx2",
    ]
    assert names_without("httpx", "httpx2") == [
        adapter,
        *(
            f"{name} - MissingExtraError zkdns.httpset.Transport needs httpx or httpx2: "
            "pip install 'zkdns[httpx]' or 'zkdns[httpx2]'"
            for name in ("AsyncTransport", "Transport")
        ),
    ]


def test_httpx2_may_take_the_name_of_httpx() -> None:
    assert names_without(first="import httpx2; httpx2.alias_httpx()")[1:] == [
        "AsyncTransport httpx2",
        "Transport httpx2",
    ]


def test_nothing_is_imported_before_it_is_used() -> None:
    program = "import sys, zkdns.httpset; print({'httpx', 'httpx2', 'requests', 'kazoo'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "set()"


@pytest.mark.parametrize(("name", "core"), [("httpx", "httpcore"), ("httpx2", "httpcore2")])
def test_the_first_request_does_not_import_the_core(name: str, core: str) -> None:
    """It would block the event loop of the request."""
    program = f"import sys, zkdns.httpset.{name}; print({core!r} in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "True"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'zkdns\.httpset' has no attribute 'Nothing'"):
        _ = zkdns.httpset.Nothing
