"""Builds the `Config` from three layers: a TOML file, environment variables and flags.

A flag overrides a variable, and a variable overrides the file, key by key. Every layer is parsed completely,
so that errors in overridden values are reported too. They would apply as soon as the override is removed.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from zkdns.address import DNS_PORT, DNS_TLS_PORT, ZOOKEEPER_PORT, HostPort
from zkdns.causes import cause_of
from zkdns.config.forwarding import by_domain, check_not_own
from zkdns.config.model import Config, PrimarySettings, ZooKeeperSettings, build_config
from zkdns.config.parsers import ADMIN_PORT, DEMO_PORT, Location, shown, text
from zkdns.config.schema import SETTINGS, GivenNamespace
from zkdns.config.setting import PREFIX, add_unknown, flag_of, parse_table
from zkdns.errors import BadValueError, ConfigError
from zkdns.namespace import DEFAULT_ZONE, MEMBER_PREFIX, Namespace, parse_namespace, split_name

if TYPE_CHECKING:
    from zkdns.config.model import ServiceOverride
    from zkdns.config.setting import Setting
    from zkdns.names import Labels

MAX_FILE = 2**20  # bytes; enough for thousands of overrides, and small enough to reject a log file
FILE_VARIABLE = "ZKDNS_CONFIG"
# Not settings: the server and the token file of commands, and the variables that `watch --exec` sets.
_NOT_SETTINGS = frozenset(
    {FILE_VARIABLE, "ZKDNS_SERVER", "ZKDNS_TOKEN_FILE", "ZKDNS_ENDPOINTS", "ZKDNS_ADDED", "ZKDNS_REMOVED"}
)
# A Kubernetes service called zkdns sets these variables in all pods of its namespace.
_SERVICE_LINK = re.compile(
    r"ZKDNS_(?:.+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_.+)?)"
)
_SERVICE_URL = re.compile(r"(?:tcp|udp|sctp)://.+")

_NAMESPACE = "/discovery/{environment}/{service}"

_TOP_LEVEL = {row.key: row for row in SETTINGS if "." not in row.key}
_SECTIONS: dict[str, dict[str, Setting]] = {}
_IN_SECTIONS: dict[str, str] = {}
"""The full keys of settings in sections, by each top-level key that a user could write by mistake."""
for _row in SETTINGS:
    _section, _, _key = _row.key.rpartition(".")
    if _section:
        _SECTIONS.setdefault(_section, {})[_key] = _row
        _IN_SECTIONS |= {_key: _row.key, _row.name: _row.key, f"{_section}_{_key}": _row.key}


def load_config(
    *,
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    file: str | None,
    listen: tuple[HostPort, ...] = (),
    check_static: Callable[[str, Sequence[Namespace]], object] | None = None,
    check_access: Callable[[ZooKeeperSettings], object] | None = None,
    check_primary: Callable[[PrimarySettings], object] | None = None,
) -> Config:
    """Read the three layers and check the result as a whole.

    Args:
        flags: the values by `Setting.name`, as typed: text, a tuple of text for a repeatable flag, a bool for
            a boolean. None and () mean that the flag is not given.
        environment: all variables of the process; an empty one counts as not set.
        file: path of the TOML file; None: the one that ZKDNS_CONFIG or systemd names, or none at all.
        listen: the default of `listen`; (): the DNS port of 127.0.0.1.
        check_static: reads the static file, and raises ConfigError with its errors; None: it is not read.
        check_access: the same for the files that the settings in `[zookeeper]` name.
        check_primary: the same for those in `[primary]`.

    Raises:
        ConfigError: with every error of every layer: its place, the value found and the accepted values.
    """
    errors: list[str] = []
    values: dict[str, Any] = {}
    locations: dict[str, Location] = {}
    for layer in (
        _read_file(file if file is not None else _default_file(environment), errors),
        _read_environment(environment, errors),
        _read_flags(flags, errors),
    ):
        for key, (value, location) in layer.items():
            values[key], locations[key] = value, location
    _add_defaults(values, environment, listen)
    _check_sources(values, locations)
    _check_ports(values, locations)
    _check_tls(values, locations)
    _check_transfer(values, locations)
    own = *(values["listen"] or ()), *(values.get("tls.listen") or ())
    if isinstance(upstreams := values.get("forward.upstreams"), tuple):
        check_not_own(upstreams, own, locations["forward.upstreams"])
    namespaces = values["namespaces"] = _join_namespaces(values, locations)
    if values.get("service") and namespaces:
        values["service"] = _by_name(values["service"], namespaces, locations["service"])
    if forward_zones := values.pop("forward.zone", None):
        values["forward.zones"] = by_domain(
            forward_zones,
            [namespace.zone for namespace in namespaces],
            own,
            locations["forward.zone"],
        )
    _check_files(values, errors, check_static, check_access, check_primary)
    if errors:
        raise ConfigError(errors)
    return build_config(values)


# -- layers -----------------------------------------------------------------------------------------------


def _read_file(file: str | None, errors: list[str]) -> dict[str, tuple[Any, Location]]:
    """Read the file and return the values with their locations by key; {} if there is no readable file."""
    if file is None:
        return {}
    location = Location(file, typed=True, directory=str(Path(file).parent), errors=errors)
    try:
        document = read_toml(file)
    except BadValueError as error:
        errors.append(f"{file or repr(file)}: {error}")
        return {}
    layer: dict[str, tuple[Any, Location]] = {}
    for name, value in document.items():
        here = location.child(name)
        if name in _TOP_LEVEL:
            layer[name] = here.parse(_TOP_LEVEL[name].parse_all, value), here
        elif name in _SECTIONS:
            layer |= _parse_section(name, value, here)
        else:
            add_unknown(name, [*_TOP_LEVEL, *_SECTIONS], location, _IN_SECTIONS)
    return layer


def _parse_section(section: str, value: object, location: Location) -> dict[str, tuple[Any, Location]]:
    rows = _SECTIONS[section]
    if not isinstance(value, dict):
        location.add_error(f"is {shown(value)}; write a section, [{section}] with {', '.join(rows)}")
        return {}
    top_level = {
        name: f"the top-level {name} (above all sections)" for name in value.keys() & _TOP_LEVEL.keys()
    }
    parsed = parse_table(value, rows, location, top_level)
    return {key: (one, location.child(key.rpartition(".")[2])) for key, one in parsed.items()}


def _read_environment(environment: Mapping[str, str], errors: list[str]) -> dict[str, tuple[Any, Location]]:
    rows = {row.variable: row for row in SETTINGS if row.in_environment}
    given = {
        name: value
        for name, value in environment.items()
        if name.startswith(PREFIX) and name not in _NOT_SETTINGS and not _is_service_link(name, value)
        if value.strip() or name not in rows
    }
    return _parse_untyped(given, rows, errors)


def _read_flags(flags: Mapping[str, object], errors: list[str]) -> dict[str, tuple[Any, Location]]:
    rows = {row.flag: row for row in SETTINGS if row.in_flags}
    given = {flag_of(name): value for name, value in flags.items() if value is not None and value != ()}
    return _parse_untyped(given, rows, errors)


def _parse_untyped(
    given: Mapping[str, object], rows: Mapping[str, Setting], errors: list[str]
) -> dict[str, tuple[Any, Location]]:
    location = Location("", typed=False, directory="", errors=errors)
    parsed = parse_table(given, rows, location)
    names = {row.key: name for name, row in rows.items()}
    return {key: (value, location.child(names[key])) for key, value in parsed.items()}


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.fullmatch(name) or (name.endswith("_PORT") and _SERVICE_URL.fullmatch(value)))


# -- files ------------------------------------------------------------------------------------------------


def _default_file(environment: Mapping[str, str]) -> str | None:
    """The file if the command line names none. The one in systemd's directory is optional."""
    return environment.get(FILE_VARIABLE) or _file_in("CONFIGURATION_DIRECTORY", "zkdns.toml", environment)


def _file_in(variable: str, name: str, environment: Mapping[str, str]) -> str | None:
    """Return a file's path in one of systemd's directories (systemd.exec(5)) if the file exists."""
    path = _path_in(variable, name, environment)
    if path is None:
        return None
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):  # the reader of the file reports the reason
        pass
    return path


def _path_in(variable: str, name: str, environment: Mapping[str, str]) -> str | None:
    directories = environment.get(variable)  # a colon separates several
    return f"{directories.partition(':')[0]}/{name}" if directories else None


def read_toml(file: str, *, max_bytes: int = MAX_FILE) -> dict[str, object]:
    """Read a TOML file.

    Args:
        file: its path.
        max_bytes: the maximum length.

    Raises:
        BadValueError: the file cannot be read, or is not TOML; without the file's name.
    """
    try:
        with Path(file).open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise BadValueError(
            f"cannot be read ({cause_of(error)}); name a TOML file that this user may read"
        ) from None
    if len(data) > max_bytes:
        raise BadValueError(f"is longer than {max_bytes} bytes, the maximum for a configuration")
    return parse_toml(data)


def parse_toml(data: bytes) -> dict[str, object]:
    """Parse the content of a TOML file.

    Raises:
        BadValueError: it is not TOML; without the file's name.
    """
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadValueError(f"is not UTF-8 (at line {line}); TOML is always UTF-8") from None
    except ValueError as error:  # TOMLDecodeError, and int() of more digits than Python reads
        hint = '; text needs quotes, such as zone = "discovery"' if "Invalid value" in str(error) else ""
        raise BadValueError(f"is not TOML: {error}{hint}") from None
    except RecursionError:
        raise BadValueError("is nested too deeply to be read") from None


# -- defaults and checks ----------------------------------------------------------------------------------


def _add_defaults(
    values: dict[str, Any], environment: Mapping[str, str], listen: tuple[HostPort, ...]
) -> None:
    """Add the defaults that depend on other settings, on the environment or on the user."""
    values.setdefault("admin.listen", HostPort("127.0.0.1", ADMIN_PORT))
    default = HostPort("127.0.0.1", DEMO_PORT if values.get("demo") else DNS_PORT)
    values.setdefault("listen", listen or (default,))
    if values.get("offline"):
        values.setdefault("snapshot.max_age", 0)  # the user has chosen this snapshot
    elif not values.get("demo") and not values.keys() & {"zookeeper.hosts", "primary.servers", "static"}:
        values["zookeeper.hosts"] = f"127.0.0.1:{ZOOKEEPER_PORT}"
        values["has_default_source"] = True
    values.setdefault("admin.socket", _default_socket(environment))
    has_snapshot = bool(values.keys() & {"zookeeper.hosts", "primary.servers"})
    if has_snapshot and (snapshot := _path_in("STATE_DIRECTORY", "table", environment)):
        values.setdefault("snapshot.path", snapshot)
    is_primary = bool(values.keys() & {"transfer.allow", "transfer.keys"})
    if is_primary and (zones := _path_in("STATE_DIRECTORY", "zones", environment)):
        values.setdefault("transfer.directory", zones)
    if credentials := _file_in("CREDENTIALS_DIRECTORY", "zookeeper.toml", environment):
        values.setdefault("zookeeper.credentials", credentials)
    if "tls.listen" in values and (certificate := _file_in("CREDENTIALS_DIRECTORY", "tls.pem", environment)):
        values.setdefault("tls.certificate", certificate)
    if token := _file_in("CREDENTIALS_DIRECTORY", "admin_token", environment):
        values.setdefault("admin.token", token)


def _default_socket(environment: Mapping[str, str]) -> str | None:
    """The API's Unix socket in the runtime directory of systemd's service, of root, or of the user."""
    if path := _path_in("RUNTIME_DIRECTORY", "api", environment):
        return path
    if os.geteuid() == 0:
        return "/run/zkdns/api"
    own = environment.get("XDG_RUNTIME_DIR")
    return f"{own}/zkdns/api" if own else None


def _check_sources(values: Mapping[str, Any], locations: Mapping[str, Location]) -> None:
    sources = ("zookeeper.hosts", "primary.servers", "static", "demo")
    given = [key for key in sources if key in locations and values.get(key)]
    for key in ("offline", "demo", "primary.servers"):  # these exclude all others
        others = [locations[other].name for other in given if other != key]
        if values.get(key) and key in locations and others:
            locations[key].add_error(f"excludes other sources; remove this or {' and '.join(others)}")
            break
    if values.get("zookeeper.observers") and "zookeeper.hosts" not in locations:
        locations["zookeeper.observers"].add_error(
            "has no effect without the other servers; write zookeeper.hosts as well"
        )
    if values.get("offline") and "snapshot.path" not in values:
        locations["offline"].add_error("needs a snapshot; write snapshot.path (--snapshot FILE)")
    if not values.get("primary.servers"):
        for key in ("primary.refresh", "primary.key", "primary.ca", "primary.allow_notify"):
            if key in locations and values.get(key):
                locations[key].add_error("has no effect without a primary; write primary.servers as well")


def _check_ports(values: Mapping[str, Any], locations: Mapping[str, Location]) -> None:
    """Check that no two servers have the same address."""
    admin: HostPort | None = values["admin.listen"]
    if admin and admin.port and values["listen"] and admin in values["listen"]:
        location = locations.get("admin.listen") or locations["listen"]
        location.add_error(
            f"{admin} is the address for both DNS and HTTP; use another port, or none for admin.listen"
        )
    for address in values.get("tls.listen") or ():
        if address and address.port and address in (*(values["listen"] or ()), admin):
            locations["tls.listen"].add_error(
                f"{address} is the address of another server; use another port, such as {DNS_TLS_PORT}"
            )


def _check_tls(values: Mapping[str, Any], locations: Mapping[str, Location]) -> None:
    """Check that TLS settings have TLS, and that a key has its certificate."""
    for section in ("admin", "tls", "zookeeper"):
        key, certificate = f"{section}.key", f"{section}.certificate"
        if values.get(key) and certificate not in values:
            locations[key].add_error(f"has no effect without a certificate; write {certificate} as well")
    if "tls.listen" in values and "tls.certificate" not in values:
        locations["tls.listen"].add_error("needs a certificate; write tls.certificate as well")
    if "tls.certificate" in locations and "tls.listen" not in values:
        locations["tls.certificate"].add_error("has no effect without an address; write tls.listen as well")
    if values.get("admin.certificate") and values["admin.listen"] is None:
        locations["admin.certificate"].add_error(
            "has no effect without an address; write admin.listen as well"
        )
    of_tls = [key for key in ("zookeeper.ca", "zookeeper.certificate", "zookeeper.key") if values.get(key)]
    if values.get("zookeeper.verify_hostname") is False:
        of_tls.append("zookeeper.verify_hostname")
    if "zookeeper.tls" not in values:
        for key in of_tls:
            locations[key].add_error("has no effect without TLS; write zookeeper.tls as well")


def _check_transfer(values: Mapping[str, Any], locations: Mapping[str, Location]) -> None:
    """Check that the keys of `[transfer]` have different names, and that NOTIFY has a purpose and its key."""
    names = [key.name for key in values.get("transfer.keys") or () if key is not None]
    for name in {name for name in names if names.count(name) > 1}:
        locations["transfer.keys"].add_error(f"has two keys with the name {name}; names are case-insensitive")
    if values.get("transfer.require_tls") and "tls.listen" not in values:
        locations["transfer.require_tls"].add_error("needs an address for TLS; write tls.listen as well")
    if "transfer.notify" in values and not values.keys() & {"transfer.allow", "transfer.keys"}:
        locations["transfer.notify"].add_error(
            "has no effect while no secondary may copy the zones; write transfer.allow or transfer.keys"
        )
    elif None not in (values.get("transfer.keys") or ()):
        for target in filter(None, values.get("transfer.notify") or ()):
            if target.key is not None and target.key not in names:
                accepted = f"write one of {', '.join(names)}" if names else "write it in [[transfer.keys]]"
                locations["transfer.notify"].add_error(f"{target} names an unknown key; {accepted}")


def _check_files(
    values: Mapping[str, Any],
    errors: list[str],
    check_static: Callable[[str, Sequence[Namespace]], object] | None,
    check_access: Callable[[ZooKeeperSettings], object] | None,
    check_primary: Callable[[PrimarySettings], object] | None,
) -> None:
    """Add the errors in the files that the settings name."""
    if check_static and values.get("static") and values["namespaces"]:
        try:
            check_static(values["static"], values["namespaces"])
        except ConfigError as error:
            errors += error.errors
    checks = (check_access, ZooKeeperSettings, "zookeeper."), (check_primary, PrimarySettings, "primary.")
    for check, settings, prefix in checks:
        if check is None:
            continue
        given = {
            key.removeprefix(prefix): value
            for key, value in values.items()
            if key.startswith(prefix) and value is not None
        }
        try:
            check(settings(**given))  # type: ignore[arg-type] # each check belongs to its settings
        except ConfigError as error:
            errors += error.errors


def _join_namespaces(values: dict[str, Any], locations: Mapping[str, Location]) -> tuple[Namespace, ...]:
    """Remove the settings of namespaces from the values, and combine them; () if one has an error."""
    zone: Labels | None = values.pop("zone", DEFAULT_ZONE)
    prefix: str | None = values.pop("member_prefix", MEMBER_PREFIX)
    only: tuple[str | None, ...] = values.pop("only", ()) or (None,) if "only" in values else ()
    default = GivenNamespace(
        parse_namespace(_NAMESPACE), None, None, None, Location("", typed=False, directory="", errors=[])
    )
    given: tuple[GivenNamespace | None, ...] = values.pop("namespace", (default,)) or (None,)
    namespaces: list[Namespace] = []
    for one in filter(None, given):
        for before in namespaces:
            if one.namespace.overlaps(before):
                one.location.add_error(
                    f"{one.namespace.template!r} matches the same znodes as {before.template!r}; "
                    "a service belongs to one namespace"
                )
                break
        namespace = replace(
            one.namespace,
            zone=one.zone or zone or DEFAULT_ZONE,
            member_prefix=one.member_prefix or prefix or MEMBER_PREFIX,
        )
        location = locations.get("only", one.location) if one.only is None else one.location.child("only")
        namespaces.append(_with_only(namespace, only if one.only is None else one.only, location))
    return tuple(namespaces) if zone and prefix and None not in (*given, *only) else ()


def _with_only(namespace: Namespace, patterns: Sequence[str | None], location: Location) -> Namespace:
    """The namespace with the patterns of its followed services; report those that do not fit."""
    parse = text(namespace.parse_pattern, "a pattern of services")
    made = [location.parse(parse, pattern) for pattern in patterns if pattern is not None]
    return replace(namespace, only=tuple(filter(None, made)))


def _by_name(
    overrides: Mapping[str, ServiceOverride], namespaces: Sequence[Namespace], location: Location
) -> dict[str, ServiceOverride]:
    """Return the overrides by the services' absolute names in lower case; report impossible names."""
    named: dict[str, ServiceOverride] = {}
    for key, override in overrides.items():
        here = location.child(key)
        try:
            name = b".".join(split_name(namespaces, key).key).decode()
        except BadValueError as error:
            here.add_error(str(error))
            continue
        if name in named:
            here.add_error("names the same service as another table; names are case-insensitive (RFC 4343)")
        named[name] = override
    return named
