"""The doctor reads the configuration as zkdns.service does."""

from __future__ import annotations

from pathlib import Path

from tests.host.trees import make_tree
from tests.systemd.service_files import ROOT
from zkdns.host.doctor.diagnose import unit_environment

_CREDENTIALS = "/etc/zkdns/zookeeper.toml"


def test_directories_of_the_unit_are_found(tmp_path: Path) -> None:
    files = {"/var/lib/zkdns": "-> private/zkdns", "/var/lib/private/zkdns/table": "", _CREDENTIALS: ""}
    both = {"STATE_DIRECTORY": "/var/lib/zkdns", "CREDENTIALS_DIRECTORY": "/etc/zkdns"}
    tree = make_tree(tmp_path / "both", files)
    assert unit_environment({"HOME": "/root"}, tree) == both | {"HOME": "/root"}
    own = {"STATE_DIRECTORY": "/own", "CREDENTIALS_DIRECTORY": "/secret"}
    assert unit_environment(own, tree) == own


def test_directories_without_the_expected_file_are_left_out(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, {"/var/lib/zkdns/": "", "/etc/zkdns/zkdns.toml": ""})
    assert unit_environment({}, tree) == {}


def test_the_unit_uses_these_directories() -> None:
    unit = (ROOT / "systemd" / "zkdns.service").read_text()
    assert "\nStateDirectory=zkdns\n" in unit
    assert f"LoadCredential=zookeeper.toml:{_CREDENTIALS}\n" in unit
