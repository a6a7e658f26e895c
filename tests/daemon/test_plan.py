"""What a change of the configuration asks for."""

import ast
from pathlib import Path
from typing import Any

import msgspec
import pytest

import zkdns
from zkdns.address import HostPort
from zkdns.config import Config, GuardSettings, ServiceOverride, load_config
from zkdns.daemon.plan import ANSWERERS, SUPERVISORS, WATCHERS, plan_of

CONFIG = load_config(flags={}, environment={"ZKDNS_FIXED": "services.toml"}, file=None)

ALL = {"watcher", "answerers"}


def changed(**settings: Any) -> Config:
    return msgspec.structs.replace(CONFIG, **settings)


@pytest.mark.parametrize(
    ("settings", "replaced"),
    [
        ({"ttl": 7}, {"answerers"}),
        ({"order": "random", "max_answers": 3}, {"answerers"}),
        ({"service": {"web.staging.discovery": ServiceOverride(ttl=1)}}, {"answerers"}),
        ({"cookie_secret": bytes(16)}, {"answerers"}),
        ({"zookeeper": "zk01:2181"}, {"watcher"}),
        ({"guard": GuardSettings(seconds=0)}, {"watcher"}),
        ({"snapshot": "/var/lib/zkdns/table"}, {"watcher"}),
        ({"workers": 3}, {"watcher"}),
        ({"ttl": 7, "session_timeout": 20}, ALL),
        ({"statuses": ("ALIVE", "STARTING")}, ALL),
        ({"listen": (HostPort("127.0.0.2", 53),)}, ALL),
        ({"log_level": "debug"}, ALL),
        ({"admin": None}, set()),
    ],
)
def test_those_are_replaced_who_know_what_changed(settings: dict[str, Any], replaced: set[str]) -> None:
    plan = plan_of(CONFIG, changed(**settings))
    assert set(plan.changed) == settings.keys()
    assert {role for role in ALL if getattr(plan, role)} == replaced
    assert not plan.is_empty


def test_where_nothing_has_changed_nothing_is_done_unless_it_is_asked_for() -> None:
    assert plan_of(CONFIG, changed()).is_empty
    plan = plan_of(CONFIG, changed(), all_of_them=True)
    assert (plan.changed, plan.watcher, plan.answerers, plan.is_empty) == ((), True, True, False)


def test_a_table_is_taken_over_where_it_is_of_the_same_znodes() -> None:
    assert plan_of(CONFIG, changed(session_timeout=20, snapshot="/other")).inherits
    assert not plan_of(CONFIG, changed(zookeeper="zk02:2181")).inherits
    (namespace,) = CONFIG.namespaces
    other = msgspec.structs.replace(namespace, zone=(b"other",))
    assert not plan_of(CONFIG, changed(namespaces=(other,))).inherits


def test_each_setting_is_in_one_list_at_most_and_each_of_them_is_one() -> None:
    assert len(SUPERVISORS | WATCHERS | ANSWERERS) == len(SUPERVISORS) + len(WATCHERS) + len(ANSWERERS)
    assert set(Config.__struct_fields__) >= SUPERVISORS | WATCHERS | ANSWERERS


def settings_read(modules: list[str]) -> set[str]:
    """What these modules read of a configuration, by any name that ends in `config`."""
    package = Path(zkdns.__file__).parent
    files = [file for module in modules for file in package.glob(module)]
    assert files
    return {
        node.attr
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("config")
    }


def test_nobody_reads_a_setting_whose_change_would_not_replace_him() -> None:
    both = ["forward/routes.py", "forward/exchange*.py", "forward/lookup.py"]
    watcher = ["watcher", "commands", "fixed_source", "guarding", "keep_snapshot", "zookeeper_source"]
    read = settings_read([*both, *(f"daemon/{module}.py" for module in watcher)])
    assert {"guard", "control", "zookeeper", "upstream"} <= read
    assert not read & (ANSWERERS | SUPERVISORS)
    answerer = ["daemon/answerer.py", "daemon/doors.py", "dns/*.py", "transport/*.py", "forward/*.py"]
    read = settings_read(answerer)
    assert {"ttl", "cookies", "cache_entries", "allow"} <= read
    assert not read & (WATCHERS | SUPERVISORS)
