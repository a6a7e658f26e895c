"""Load a configuration from a file in the working directory, variables and flags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

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
    """Load a configuration; `toml` is the text of the file, None for no file."""
    if toml is not None:
        Path(FILE).write_bytes(toml if isinstance(toml, bytes) else toml.encode())
    return load_config(flags=flags, environment=environment or {}, file=FILE if toml is not None else None)


def load_or_errors(
    toml: str | bytes | None = None,
    environment: Mapping[str, str] | None = None,
    **flags: object,
) -> tuple[Config | None, tuple[str, ...]]:
    try:
        return load(toml, environment, **flags), ()
    except ConfigError as error:
        return None, error.errors


def errors_of(
    toml: str | bytes | None = None,
    environment: Mapping[str, str] | None = None,
    **flags: object,
) -> tuple[str, ...]:
    config, found = load_or_errors(toml, environment, **flags)
    assert config is None
    return found


def decoded_copy(config: Config | None) -> Config | None:
    """The configuration as a child process receives it."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=Config | None)
