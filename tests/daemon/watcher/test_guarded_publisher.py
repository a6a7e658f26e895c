"""By which names `zkdns accept` finds a service."""

import pytest

from zkdns.daemon.ipc.control_messages import AcceptLosses, Refused
from zkdns.daemon.watcher.guarded_publisher import accept_losses
from zkdns.namespace import ServiceName
from zkdns.serverset.changes import SetPut
from zkdns.table import Table

ZONES = ((b"discovery",), (b"aurora",))


@pytest.mark.parametrize(
    ("name", "is_found"),
    [
        ("web.staging", True),
        ("WEB.staging.discovery.", True),
        ("/discovery/staging/web", True),
        ("hello.prod.www", True),
        ("hello.prod.www.aurora", True),
        ("web.staging.aurora", False),
        ("hello.prod.www.discovery", False),
        ("/discovery/staging", False),
    ],
)
def test_a_service_is_found_with_and_without_its_zone(name: str, is_found: bool) -> None:
    table = Table()
    table.apply(SetPut("/discovery/staging/web", ServiceName("web", "staging"), ()))
    table.apply(SetPut("/aurora/www/prod/hello", ServiceName("hello", "prod.www", ZONES[1]), ()))
    refused = accept_losses(AcceptLosses(name), None, table, ZONES)
    sentence = f"nothing is held of {name}" if is_found else f"there is no service {name}"
    assert refused == Refused("not_found", sentence)
