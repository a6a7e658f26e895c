"""The page library.md: its names exist, and it has every public name of the balancers."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import zkdns

PAGE = (Path(zkdns.__file__).parent / "docs" / "library.md").read_text(encoding="utf-8")
# The exported names of strava/go.serversets (`go doc -all` of each package), without those of the package
# `internal`, which no program can import.
_GO_NAMES = {
    "serversets": """
        BaseDirectory BaseZnodePath DefaultZKTimeout Endpoint Endpoint.Close Endpoint.CloseEvent
        Endpoint.PingRate Endpoint.ServerSet Environment Local MemberPrefix New Production SOH ServerSet
        ServerSet.RegisterEndpoint ServerSet.Watch ServerSet.ZKTimeout ServerSet.ZookeeperServers Staging Test
        Watch Watch.Close Watch.Endpoints Watch.Event Watch.EventCount Watch.IsClosed Watch.LastEvent
    """,
    "fixedset": """
        FixedSet FixedSet.Close FixedSet.Endpoints FixedSet.Event FixedSet.EventCount FixedSet.IsClosed
        FixedSet.LastEvent FixedSet.SetEndpoints New
    """,
    "httpset": """
        ErrNoServers HTTPSet HTTPSet.Client HTTPSet.Transport New NewTransport Transport
        Transport.BaseTransport Transport.Endpoints Transport.Event Transport.EventCount Transport.LastEvent
        Transport.RotateEndpoint Transport.RoundTrip Transport.SetEndpoints Transport.UseHTTPS
        Transport.Watcher Watcher Watcher.Endpoints Watcher.Event Watcher.IsClosed
    """,
    "mcset": """
        DefaultLogger ErrNoServers Logger Logger.Printf MCSet MCSet.Each MCSet.Endpoints MCSet.Event
        MCSet.EventCount MCSet.LastEvent MCSet.Logger MCSet.PickServer MCSet.SetEndpoints MCSet.Watcher New
        Watcher Watcher.Endpoints Watcher.Event Watcher.IsClosed
    """,
    "thriftset": """
        Conn Conn.Client Conn.Close Conn.Release Conn.Socket DefaultIdleTimeout DefaultMaxActivePerHost
        DefaultMaxIdlePerHost DefaultTimeout ErrGetOnClosedEndpoint ErrGetOnClosedSet ErrNoEndpoints New
        ThriftSet ThriftSet.Close ThriftSet.Event ThriftSet.EventCount ThriftSet.GetConn ThriftSet.IdleTimeout
        ThriftSet.IsClosed ThriftSet.LastEvent ThriftSet.MaxActivePerHost ThriftSet.MaxIdlePerHost
        ThriftSet.OpenConn ThriftSet.SetIdleTimeout ThriftSet.SetMaxActivePerHost ThriftSet.SetMaxIdlePerHost
        ThriftSet.SetTimeout ThriftSet.StatsD ThriftSet.Timeout Watcher Watcher.Endpoints Watcher.Event
        Watcher.IsClosed
    """,
}
GO_NAMES = [f"{package}.{name}" for package, names in _GO_NAMES.items() for name in names.split()]
_NAME = re.compile(r"`(zkdns(?:\.\w+)+)(?:\((\w+)\))?`")


def table() -> list[tuple[str, str, str]]:
    """The rows of the table of Go names: Go, Python, difference."""
    section = PAGE.split("### Names in go.serversets", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    assert all(len(row) == 3 for row in rows)
    return [(go.strip(), python.strip(), difference.strip()) for go, python, difference in rows[2:]]


NAMES = sorted({match.groups() for match in _NAME.finditer(PAGE)}, key=str)


def found(name: str) -> object:
    """The object of a dotted name."""
    module = "zkdns"
    value: object = zkdns
    for part in name.split(".")[1:]:
        if inspect.ismodule(value) and not hasattr(value, part):
            value = import_module(f"{module}.{part}")
        else:
            value = getattr(value, part)
        module += f".{part}"
    return value


@pytest.mark.parametrize(("name", "parameter"), NAMES)
def test_each_python_name_of_the_page_exists(name: str, parameter: str | None) -> None:
    value = found(name)
    assert value is not None
    if parameter is not None:
        assert callable(value)
        assert parameter in inspect.signature(value).parameters


def test_each_exported_go_name_is_in_one_row() -> None:
    rows = table()
    names = [name for go, _, _ in rows for name in re.findall(r"`([^`]+)`", go)]
    assert sorted(names) == sorted(GO_NAMES)
    for go, python, difference in rows:
        assert not re.sub(r"`[^`]+`|, ", "", go), f"{go!r} is not only names"
        assert python or difference, f"{go} has neither a Python name nor a reason why not"
        assert not re.sub(r"[\s,]", "", _NAME.sub("", python)), f"{go}: {python!r} is not only names"


@pytest.mark.parametrize("module", ["balance", "fixedset", "httpset", "mcset", "thriftset"])
def test_each_public_class_is_on_the_page(module: str) -> None:
    names = import_module(f"zkdns.{module}").__all__
    missing = [name for name in names if not re.search(rf"\b{name}\b", PAGE)]
    # Described where they are used, not by name.
    assert set(missing) <= {"Balancer", "Client", "Event", "LeastRequest", "RoundRobin"}
