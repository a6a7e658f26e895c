"""The server's configuration: one frozen `Config` in sections, read from a TOML file, variables and flags.

Every error in all of them is reported at once. The only I/O here is reading the file.
"""

from zkdns.config.load import load_config
from zkdns.config.model import (
    AccessSettings,
    AdminSettings,
    CacheSettings,
    Config,
    Empty,
    ForwardSettings,
    ForwardZoneSettings,
    GuardSettings,
    LogFormat,
    LogLevel,
    LogSettings,
    Order,
    PrimarySettings,
    ServiceOverride,
    SnapshotSettings,
    UpstreamsSetting,
    ZooKeeperSettings,
)
from zkdns.config.schema import SETTINGS
from zkdns.config.setting import Process, Setting

__all__ = [
    "SETTINGS",
    "AccessSettings",
    "AdminSettings",
    "CacheSettings",
    "Config",
    "Empty",
    "ForwardSettings",
    "ForwardZoneSettings",
    "GuardSettings",
    "LogFormat",
    "LogLevel",
    "LogSettings",
    "Order",
    "PrimarySettings",
    "Process",
    "ServiceOverride",
    "Setting",
    "SnapshotSettings",
    "UpstreamsSetting",
    "ZooKeeperSettings",
    "load_config",
]
