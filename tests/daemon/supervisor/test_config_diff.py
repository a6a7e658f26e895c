"""Configuration diffs: the processes that a reload replaces, and the settings that a process uses."""

import ast
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

import zkdns
from zkdns.address import HostPort
from zkdns.config import (
    SETTINGS,
    AdminSettings,
    Config,
    GuardSettings,
    LogSettings,
    Process,
    ServiceOverride,
    SnapshotSettings,
    ZooKeeperSettings,
    load_config,
)
from zkdns.daemon.supervisor.config_diff import config_for, diff_configs

CONFIG = load_config(
    flags={},
    environment={
        "ZKDNS_STATIC": "services.toml",
        "ZKDNS_ADMIN_TOKEN": "/token",
        "ZKDNS_CACHE_ENTRIES": "7",
        "ZKDNS_ZOOKEEPER_CREDENTIALS": "/zookeeper.toml",
    },
    file=None,
)

_READ = re.compile(r".*config\.(\w+)(?:\.(\w+))?")
ALL = {"watcher", "workers", "transfer"}


def changed(**settings: Any) -> Config:
    """The configuration with other settings. A dictionary changes some settings of its section."""
    given = {
        key: msgspec.structs.replace(getattr(CONFIG, key), **value)
        if isinstance(value, dict) and key != "service"
        else value
        for key, value in settings.items()
    }
    return msgspec.structs.replace(CONFIG, **given)


@pytest.mark.parametrize(
    ("settings", "fields", "replaced"),
    [
        ({"ttl": 7}, ("ttl",), {"workers", "transfer"}),
        ({"order": "random", "max_answers": 3}, ("order", "max_answers"), {"workers"}),
        (
            {"service": {"web.staging.discovery": ServiceOverride(ttl=1)}},
            ("service",),
            {"workers", "transfer"},
        ),
        ({"access": {"cookie_secret": bytes(16)}}, ("access.cookie_secret",), {"workers"}),
        ({"cache": {"stale": 0}}, ("cache.stale",), {"workers"}),
        ({"zookeeper": {"hosts": "zk01:2181"}}, ("zookeeper.hosts",), {"watcher"}),
        ({"guard": {"seconds": 0}}, ("guard.seconds",), {"watcher"}),
        ({"snapshot": {"path": "/var/lib/zkdns/table"}}, ("snapshot.path",), {"watcher"}),
        ({"workers": 3}, ("workers",), {"watcher"}),
        ({"ttl": 7, "zookeeper": {"session_timeout": 20}}, ("zookeeper.session_timeout", "ttl"), ALL),
        ({"transfer": {"allow": ("10.0.0.2/32",)}}, ("transfer.allow",), {"transfer"}),
        ({"statuses": ("ALIVE", "STARTING")}, ("statuses",), ALL),
        ({"listen": (HostPort("127.0.0.2", 53),)}, ("listen",), ALL),
        ({"forward": {"upstreams": ()}}, ("forward.upstreams",), ALL),
        ({"log": {"level": "debug"}}, ("log.level",), ALL),
        ({"log": {"queries": 0.5}}, ("log.queries",), {"workers"}),
        ({"admin": {"listen": None, "token": None}}, ("admin.listen", "admin.token"), set()),
    ],
)
def test_the_processes_that_use_a_changed_setting_are_replaced(
    settings: dict[str, Any], fields: tuple[str, ...], replaced: set[str]
) -> None:
    diff = diff_configs(CONFIG, changed(**settings))
    assert diff.changed == fields
    assert {role for role in ALL if getattr(diff, role)} == replaced
    assert not diff.is_empty


def test_an_empty_diff_replaces_no_process_unless_requested() -> None:
    assert diff_configs(CONFIG, changed()).is_empty
    diff = diff_configs(CONFIG, changed(), replace_all=True)
    assert (diff.changed, diff.watcher, diff.workers, diff.is_empty) == ((), True, True, False)


def test_a_new_watcher_takes_over_the_table_if_its_znodes_are_the_same() -> None:
    other_session = changed(zookeeper={"session_timeout": 20}, snapshot={"path": "/other"})
    assert diff_configs(CONFIG, other_session).takes_over_table
    assert not diff_configs(CONFIG, changed(zookeeper={"hosts": "zk02:2181"})).takes_over_table
    (namespace,) = CONFIG.namespaces
    other = changed(namespaces=(msgspec.structs.replace(namespace, zone=(b"other",)),))
    assert diff_configs(CONFIG, other).changed == ("namespaces",)
    assert not diff_configs(CONFIG, other).takes_over_table


def test_a_worker_gets_only_the_settings_that_it_uses() -> None:
    config = config_for("worker", changed(ttl=9, log={"level": "debug"}, guard={"seconds": 1}))
    assert (config.ttl, config.cache.entries, config.log) == (9, 7, LogSettings(level="debug"))
    assert (config.namespaces, config.listen) == (CONFIG.namespaces, CONFIG.listen)
    assert (config.zookeeper, config.static, config.admin) == (ZooKeeperSettings(), None, AdminSettings())
    assert (config.guard, config.snapshot, config.admin.socket) == (GuardSettings(), SnapshotSettings(), None)


def fields_read(modules: list[str]) -> set[str]:
    """Return the fields of `Config` that these modules read from a variable whose name ends in `config`.

    A section that is passed on counts as all of its fields.
    """
    package = Path(zkdns.__file__).parent
    files = [file for module in modules for file in package.glob(module)]
    assert files
    all_fields = {row.field for row in SETTINGS}
    sections = {field.partition(".")[0] for field in all_fields if "." in field}
    read: set[str] = set()
    for file in files:
        tree = ast.parse(file.read_text())
        inner = {node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        for node in ast.walk(tree):
            found = _READ.fullmatch(ast.unparse(node)) if isinstance(node, ast.Attribute) else None
            if found is None:
                continue
            section, name = found.groups()
            if section not in sections:
                read.add(section)
            elif name:
                read.add(f"{section}.{name}")
            elif node not in inner:
                read |= {field for field in all_fields if field.startswith(f"{section}.")}
    return read & all_fields


def used_by(process: Process) -> set[str]:
    return {row.field for row in SETTINGS if process in row.used_by}


@pytest.mark.parametrize(
    ("process", "modules", "expected"),
    [
        (
            "watcher",
            [
                *("daemon/watcher/*.py", "guard/*.py", "serverset/**/*.py", "snapshot.py"),
                # The modules of forward/ that resolve members' host names.
                *("forward/forward_zones.py", "forward/host_lookup.py", "forward/resolution.py"),
                "forward/resolver.py",
            ],
            {"guard.share", "zookeeper.hosts", "zookeeper.tls", "forward.upstreams"},
        ),
        (
            "worker",
            ["daemon/worker/*.py", "dns/*.py", "transport/*.py", "forward/*.py"],
            {"ttl", "access.cookies", "cache.entries", "access.allow", "forward.trust_ad", "log.queries"},
        ),
        (
            "supervisor",
            ["daemon/supervisor/*.py"],
            {"listen", "workers", "admin.listen", "admin.token", "log.level", "zookeeper.hosts"},
        ),
    ],
)
def test_a_process_reads_only_settings_whose_rows_name_it(
    process: Process, modules: list[str], expected: set[str]
) -> None:
    read = fields_read(modules)
    assert expected <= read
    assert read <= used_by(process)
