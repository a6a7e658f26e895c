"""The options of the commands that connect to ZooKeeper themselves."""

import pytest

from zkdns.cli.serverset_options import fail_in_zookeeper
from zkdns.cli.statuses import ExitStatus
from zkdns.config import load_config
from zkdns.errors import UnreachableError, ZkdnsError, ZooKeeperError


@pytest.mark.parametrize(
    ("hosts", "error", "status", "has_hint"),
    [
        (None, UnreachableError("cannot be reached"), ExitStatus.NO_RESPONSE, True),
        (None, ZooKeeperError("denied"), ExitStatus.FAILED, False),
        ("127.0.0.1:2181", UnreachableError("cannot be reached"), ExitStatus.NO_RESPONSE, False),
    ],
)
def test_only_an_unreachable_default_ensemble_leads_to_the_option(
    hosts: str | None,
    error: ZkdnsError,
    status: ExitStatus,
    has_hint: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    environment = {"ZKDNS_ZOOKEEPER": hosts} if hosts else {}
    with pytest.raises(SystemExit) as ended:
        fail_in_zookeeper(error, load_config(flags={}, environment=environment, file=None))
    assert ended.value.code == status
    hint = "; no other is configured: name one with --zookeeper or ZKDNS_ZOOKEEPER" if has_hint else ""
    assert capsys.readouterr().err == f"zkdns: {error}{hint}\n"
