"""The doctor reads the unit's configuration as the unit does, where that is what is there."""

from __future__ import annotations

from pathlib import Path

from tests.machine.trees import make_tree
from tests.systemd.service_files import ROOT
from zkdns.machine.unit import environment_of_unit

_CREDENTIALS = "/etc/zkdns/zookeeper.toml"


def test_what_is_there_is_found_where_systemd_would_tell_it(tmp_path: Path) -> None:
    files = {"/var/lib/zkdns": "-> private/zkdns", "/var/lib/private/zkdns/table": "", _CREDENTIALS: ""}
    both = {"STATE_DIRECTORY": "/var/lib/zkdns", "CREDENTIALS_DIRECTORY": "/etc/zkdns"}
    tree = make_tree(tmp_path / "both", files)
    assert environment_of_unit({"HOME": "/root"}, tree) == both | {"HOME": "/root"}
    own = {"STATE_DIRECTORY": "/own", "CREDENTIALS_DIRECTORY": "/secret"}
    assert environment_of_unit(own, tree) == own


def test_what_is_not_there_is_not_told(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, {"/var/lib/zkdns/": "", "/etc/zkdns/zkdns.toml": ""})
    assert environment_of_unit({}, tree) == {}


def test_the_unit_has_its_directories_there() -> None:
    unit = (ROOT / "systemd" / "zkdns.service").read_text()
    assert "\nStateDirectory=zkdns\n" in unit
    assert f"LoadCredential=zookeeper.toml:{_CREDENTIALS}\n" in unit
