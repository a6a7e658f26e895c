"""What a server is told: one frozen `Config` out of a TOML file, environment variables and flags.

Never here: I/O beyond reading that file.
"""

from zkdns.config.load import load_config
from zkdns.config.model import (
    Config,
    Empty,
    ForwardSettings,
    GuardSettings,
    LogFormat,
    LogLevel,
    Order,
    ServiceOverride,
    Upstream,
)
from zkdns.config.settings import SETTINGS
from zkdns.config.values import Setting

__all__ = [
    "SETTINGS",
    "Config",
    "Empty",
    "ForwardSettings",
    "GuardSettings",
    "LogFormat",
    "LogLevel",
    "Order",
    "ServiceOverride",
    "Setting",
    "Upstream",
    "load_config",
]
