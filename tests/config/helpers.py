"""Configurations out of what was written, in a file of the working directory and elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zkdns.config import Config, load_config
from zkdns.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE = "zkdns.toml"


def load(
    toml: str | bytes | None = None,
    environment: Mapping[str, str] | None = None,
    **flags: object,
) -> Config:
    """Load what was written; nothing written is a layer that is not there."""
    if toml is not None:
        Path(FILE).write_bytes(toml if isinstance(toml, bytes) else toml.encode())
    return load_config(flags=flags, environment=environment or {}, file=FILE if toml is not None else None)


def try_to_load(
    toml: str | bytes | None = None,
    environment: Mapping[str, str] | None = None,
    **flags: object,
) -> tuple[Config | None, tuple[str, ...]]:
    try:
        return load(toml, environment, **flags), ()
    except ConfigError as error:
        return None, error.errors


def mistakes(
    toml: str | bytes | None = None,
    environment: Mapping[str, str] | None = None,
    **flags: object,
) -> tuple[str, ...]:
    config, found = try_to_load(toml, environment, **flags)
    assert config is None
    return found
