"""Which processes a reload replaces, and what a worker gets of the configuration."""

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

_READ = re.compile(r".*config(?:\(\))?\.(\w+)(?:\.(\w+))?")
ALL = {"watcher", "workers"}


def changed(**settings: Any) -> Config:
    """The configuration with other settings; of a section only those that are named."""
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
        ({"ttl": 7}, ("ttl",), {"workers"}),
        ({"order": "random", "max_answers": 3}, ("order", "max_answers"), {"workers"}),
        ({"service": {"web.staging.discovery": ServiceOverride(ttl=1)}}, ("service",), {"workers"}),
        ({"access": {"cookie_secret": bytes(16)}}, ("access.cookie_secret",), {"workers"}),
        ({"cache": {"stale": 0}}, ("cache.stale",), {"workers"}),
        ({"zookeeper": {"hosts": "zk01:2181"}}, ("zookeeper.hosts",), {"watcher"}),
        ({"guard": {"seconds": 0}}, ("guard.seconds",), {"watcher"}),
        ({"snapshot": {"path": "/var/lib/zkdns/table"}}, ("snapshot.path",), {"watcher"}),
        ({"workers": 3}, ("workers",), {"watcher"}),
        ({"ttl": 7, "zookeeper": {"session_timeout": 20}}, ("zookeeper.session_timeout", "ttl"), ALL),
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
    plan = diff_configs(CONFIG, changed(**settings))
    assert plan.changed == fields
    assert {role for role in ALL if getattr(plan, role)} == replaced
    assert not plan.is_empty


def test_where_nothing_has_changed_nothing_is_done_unless_it_is_asked_for() -> None:
    assert diff_configs(CONFIG, changed()).is_empty
    plan = diff_configs(CONFIG, changed(), all_of_them=True)
    assert (plan.changed, plan.watcher, plan.workers, plan.is_empty) == ((), True, True, False)


def test_a_table_is_taken_over_where_it_is_of_the_same_znodes() -> None:
    other_session = changed(zookeeper={"session_timeout": 20}, snapshot={"path": "/other"})
    assert diff_configs(CONFIG, other_session).inherits
    assert not diff_configs(CONFIG, changed(zookeeper={"hosts": "zk02:2181"})).inherits
    (namespace,) = CONFIG.namespaces
    other = changed(namespaces=(msgspec.structs.replace(namespace, zone=(b"other",)),))
    assert diff_configs(CONFIG, other).changed == ("namespaces",)
    assert not diff_configs(CONFIG, other).inherits


def test_a_worker_gets_the_settings_that_it_uses_and_no_other() -> None:
    config = config_for("worker", changed(ttl=9, log={"level": "debug"}, guard={"seconds": 1}))
    assert (config.ttl, config.cache.entries, config.log) == (9, 7, LogSettings(level="debug"))
    assert (config.namespaces, config.listen) == (CONFIG.namespaces, CONFIG.listen)
    assert (config.zookeeper, config.static, config.admin) == (ZooKeeperSettings(), None, AdminSettings())
    assert (config.guard, config.snapshot, config.control) == (GuardSettings(), SnapshotSettings(), None)


def fields_read(modules: list[str]) -> set[str]:
    """The fields of a configuration that these modules read, by any name that ends in `config`.

    A section that is read as a whole stands for all of its fields.
    """
    package = Path(zkdns.__file__).parent
    files = [file for module in modules for file in package.glob(module)]
    assert files
    every = {row.field for row in SETTINGS}
    sections = {field.partition(".")[0] for field in every if "." in field}
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
                read |= {field for field in every if field.startswith(f"{section}.")}
    return read & every


def used_by(process: Process) -> set[str]:
    return {row.field for row in SETTINGS if process in row.used_by}


@pytest.mark.parametrize(
    ("process", "modules", "some"),
    [
        (
            "watcher",
            [
                *("forward/forward_zones.py", "forward/host_lookup.py", "forward/resolution.py"),
                *("forward/resolver.py", "serverset/*.py", "serverset/*/*.py", "snapshot.py"),
                "daemon/watcher/*.py",
            ],
            {"guard.share", "control", "zookeeper.hosts", "zookeeper.tls", "forward.upstreams"},
        ),
        (
            "worker",
            ["daemon/worker/*.py", "dns/*.py", "transport/*.py", "forward/*.py"],
            {"ttl", "access.cookies", "cache.entries", "access.allow", "forward.trust_ad", "log.queries"},
        ),
        (
            "supervisor",
            [
                *(
                    "daemon/supervisor/supervisor.py",
                    "daemon/supervisor/admin_backend.py",
                    "daemon/supervisor/handover.py",
                ),
                *("daemon/supervisor/systemd_notifier.py", "daemon/supervisor/reload.py"),
            ],
            {"listen", "workers", "admin.listen", "admin.token", "log.level", "zookeeper.hosts"},
        ),
    ],
)
def test_a_process_reads_only_settings_whose_rows_name_it(
    process: Process, modules: list[str], some: set[str]
) -> None:
    read = fields_read(modules)
    assert some <= read
    assert read <= used_by(process)
