"""Makes the one `Config` out of three layers: a TOML file, environment variables, flags.

A flag wins over a variable and a variable over the file, key by key. Every layer is read in full all the
same: what is overridden today is in force tomorrow, so its mistakes are told together with all the others.

Never here: I/O beyond reading the one file, and seeing whether others are there.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec.structs import replace

from zkdns.address import DNS_PORT, ZOOKEEPER_PORT, HostPort
from zkdns.config.forwarding import by_domain, check_upstreams
from zkdns.config.model import Config
from zkdns.config.settings import ADMIN_PORT, DEMO_PORT, SETTINGS, GivenNamespace
from zkdns.config.values import PREFIX, Place, Setting, flag_of, read_table
from zkdns.errors import BadValueError, ConfigError
from zkdns.namespace import DEFAULT_ZONE, Namespace, parse_namespace, split_name

if TYPE_CHECKING:
    from zkdns.config.model import ServiceOverride
    from zkdns.names import Labels

MAX_FILE = 2**20  # bytes; thousands of overrides fit, and a log given by mistake does not
FILE_VARIABLE = "ZKDNS_CONFIG"
# No settings: what `lookup` asks, and what `watch --exec` tells its command, which may be one of ours.
_NO_SETTINGS = frozenset({FILE_VARIABLE, "ZKDNS_SERVER", "ZKDNS_ENDPOINTS", "ZKDNS_ADDED", "ZKDNS_REMOVED"})
# A Kubernetes service called zkdns puts these into the environment of every pod beside it.
_SERVICE_LINK = re.compile(
    r"ZKDNS_(?:.+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_.+)?)"
)
_SERVICE_URL = re.compile(r"(?:tcp|udp|sctp)://.+")

_Layer: TypeAlias = tuple[Mapping[str, object], Mapping[str, Setting], Place]

_NAMESPACE = "/discovery/{environment}/{service}"


def load_config(
    *,
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    file: str | None,
    listen: tuple[HostPort, ...] = (),
    check_fixed: Callable[[str, Sequence[Namespace]], object] | None = None,
    check_access: Callable[..., object] | None = None,
) -> Config:
    """Read the three layers and check them as one.

    Args:
        flags: by `Setting.key`, as typed: text, a tuple of text where there may be many, a bool for a switch.
            None and () mean not given.
        environment: all variables of the process; an empty one counts as not set.
        file: path of the TOML file; None: what ZKDNS_CONFIG or systemd says, or no file.
        listen: where to answer unless told otherwise; (): on the usual port, for this machine alone.
        check_fixed: reads the fixed file, and raises ConfigError with its mistakes; None: it is not read.
        check_access: the same for the files that the settings `zookeeper_…` name; it gets those settings.

    Raises:
        ConfigError: holding every mistake of every layer, each with where it stands, what was found and what
            would be accepted.
    """
    mistakes: list[str] = []
    values: dict[str, Any] = {}
    places: dict[str, Place] = {}
    for given, rows, place in (
        _from_file(file if file is not None else _usual_file(environment), mistakes),
        _from_environment(environment, mistakes),
        _from_flags(flags, mistakes),
    ):
        values |= read_table(given, rows, place)
        places |= {row.key: place.inside(name) for name, row in rows.items() if name in given}
    _add_defaults(values, environment, listen)
    _check_sources(values, places)
    _check_ports(values, places)
    _check_tls(values, places)
    check_upstreams(values, places)
    namespaces = values["namespaces"] = _join_namespaces(values)
    if values.get("service") and namespaces:
        values["service"] = _by_name(values["service"], namespaces, places["service"])
    if values.get("forward"):
        zones = [namespace.zone for namespace in namespaces]
        values["forward"] = by_domain(values["forward"], zones, values["listen"], places["forward"])
    if check_fixed and values.get("fixed") and namespaces:
        try:
            check_fixed(values["fixed"], namespaces)
        except ConfigError as error:
            mistakes += error.errors
    if check_access:
        try:
            check_access(
                **{key: value for key, value in values.items() if key.startswith("zookeeper_") and value}
            )
        except ConfigError as error:
            mistakes += error.errors
    if mistakes:
        raise ConfigError(mistakes)
    return Config(**values)


def _from_file(file: str | None, mistakes: list[str]) -> _Layer:
    """The file's table; an empty one where there is no file, or none that can be read."""
    place = Place(f"{file}: ", typed=True, directory=str(Path(file or "").parent), mistakes=mistakes)
    document: dict[str, object] = {}
    if file is not None:
        try:
            document = read_toml(file)
        except BadValueError as mistake:
            mistakes.append(f"{file or repr(file)}: {mistake}")
    return document, {row.key: row for row in SETTINGS}, place


def _usual_file(environment: Mapping[str, str]) -> str | None:
    """The file where the command line names none; systemd's need not be there."""
    return environment.get(FILE_VARIABLE) or _file_in("CONFIGURATION_DIRECTORY", "zkdns.toml", environment)


def _file_in(variable: str, name: str, environment: Mapping[str, str]) -> str | None:
    """A file in a directory that systemd.exec(5) tells, where it is there."""
    path = _path_in(variable, name, environment)
    if path is None:
        return None
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):  # whoever reads it says why it cannot be
        pass
    return path


def _path_in(variable: str, name: str, environment: Mapping[str, str]) -> str | None:
    directories = environment.get(variable)  # several have colons between
    return f"{directories.partition(':')[0]}/{name}" if directories else None


def _from_environment(environment: Mapping[str, str], mistakes: list[str]) -> _Layer:
    rows = {row.variable: row for row in SETTINGS if row.in_environment}
    given = {
        name: value
        for name, value in environment.items()
        if name.startswith(PREFIX) and name not in _NO_SETTINGS and not _is_service_link(name, value)
        if value.strip() or name not in rows
    }
    return given, rows, Place("", typed=False, directory="", mistakes=mistakes)


def _from_flags(flags: Mapping[str, object], mistakes: list[str]) -> _Layer:
    rows = {row.flag: row for row in SETTINGS if row.in_flags}
    given = {flag_of(key): value for key, value in flags.items() if value is not None and value != ()}
    return given, rows, Place("", typed=False, directory="", mistakes=mistakes)


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.fullmatch(name) or (name.endswith("_PORT") and _SERVICE_URL.fullmatch(value)))


def read_toml(file: str) -> dict[str, object]:
    """Read the file.

    Raises:
        BadValueError: why not, without the file's name.
    """
    try:
        with Path(file).open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadValueError(f"cannot be read ({reason}); name a TOML file that this user may read") from None
    if len(data) > MAX_FILE:
        raise BadValueError(f"is longer than {MAX_FILE} bytes, which no configuration is")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadValueError(f"is not UTF-8 (at line {line}); TOML is always UTF-8") from None
    except ValueError as error:  # TOMLDecodeError, and int() of more digits than Python reads
        raise BadValueError(f"is not TOML: {error}") from None
    except RecursionError:
        raise BadValueError("is nested too deeply to be read") from None


def _add_defaults(
    values: dict[str, Any], environment: Mapping[str, str], listen: tuple[HostPort, ...]
) -> None:
    """Fill in what depends on other settings or would surprise whoever makes a `Config` by hand."""
    values.setdefault("admin", HostPort("127.0.0.1", ADMIN_PORT))
    usual = HostPort("127.0.0.1", DEMO_PORT if values.get("demo") else DNS_PORT)
    values.setdefault("listen", listen or (usual,))
    if values.get("offline"):
        values.setdefault("snapshot_max_age", 0)  # who names a file to serve wants this one, however old
    elif not values.get("demo") and not values.keys() & {"zookeeper", "fixed"}:
        values["zookeeper"] = f"127.0.0.1:{ZOOKEEPER_PORT}"
    values.setdefault("control", _control(environment))
    if "zookeeper" in values and (kept := _path_in("STATE_DIRECTORY", "table", environment)):
        values.setdefault("snapshot", kept)
    if secrets := _file_in("CREDENTIALS_DIRECTORY", "zookeeper.toml", environment):
        values.setdefault("zookeeper_credentials", secrets)
    if token := _file_in("CREDENTIALS_DIRECTORY", "admin_token", environment):
        values.setdefault("admin_token", token)


def _control(environment: Mapping[str, str]) -> str | None:
    """Where server and commands meet unless told otherwise: where systemd, root and users keep such files."""
    if path := _path_in("RUNTIME_DIRECTORY", "control", environment):
        return path
    if os.geteuid() == 0:
        return "/run/zkdns/control"
    own = environment.get("XDG_RUNTIME_DIR")
    return f"{own}/zkdns/control" if own else None


def _check_sources(values: Mapping[str, Any], places: Mapping[str, Place]) -> None:
    others = [places[key].name for key in ("zookeeper", "fixed") if key in places]
    if values.get("demo") and others:
        places["demo"].refuse(f"the example stands alone; leave out this or {' and '.join(others)}")
    if not values.get("offline"):
        return
    if others := [places[key].name for key in ("zookeeper", "fixed", "demo") if values.get(key)]:
        places["offline"].refuse(f"a snapshot is served alone; leave out this or {' and '.join(others)}")
    if "snapshot" not in values:
        places["offline"].refuse("names no file by itself; name one with snapshot (--snapshot FILE)")


def _check_ports(values: Mapping[str, Any], places: Mapping[str, Place]) -> None:
    admin: HostPort | None = values["admin"]
    if admin and admin.port and values["listen"] and admin in values["listen"]:
        place = places.get("admin") or places["listen"]
        place.refuse(f"{admin} cannot answer both DNS and HTTP; choose another port, or write none for admin")


def _check_tls(values: Mapping[str, Any], places: Mapping[str, Place]) -> None:
    """Check that nothing is told of TLS that is not spoken, or of a key without its certificate."""
    for key in ("zookeeper_ca", "zookeeper_certificate", "zookeeper_key", "zookeeper_any_host"):
        if values.get(key) and "zookeeper_tls" not in values:
            places[key].refuse("is of no use without TLS; write zookeeper_tls as well")
    if values.get("zookeeper_key") and "zookeeper_certificate" not in values:
        places["zookeeper_key"].refuse(
            "is of no use without its certificate; write zookeeper_certificate as well"
        )


def _join_namespaces(values: dict[str, Any]) -> tuple[Namespace, ...]:
    """Take the namespaces as written out of the values, and give each its zone; none where one is wrong."""
    zone: Labels | None = values.pop("zone", DEFAULT_ZONE)
    if "namespace" not in values:
        return (parse_namespace(_NAMESPACE, zone),) if zone else ()
    given: tuple[GivenNamespace | None, ...] = values.pop("namespace") or (None,)
    namespaces: list[Namespace] = []
    for one in filter(None, given):
        for before in namespaces:
            if one.namespace.meets(before):
                one.place.refuse(
                    f"{one.namespace.template!r} finds the same znodes as {before.template!r}; "
                    "a set belongs to one namespace"
                )
                break
        namespaces.append(replace(one.namespace, zone=one.zone or zone or DEFAULT_ZONE))
    return tuple(namespaces) if zone and None not in given else ()


def _by_name(
    overrides: Mapping[str, ServiceOverride], namespaces: Sequence[Namespace], place: Place
) -> dict[str, ServiceOverride]:
    """The overrides by the services' absolute names in lower case, each one that a namespace can make."""
    named: dict[str, ServiceOverride] = {}
    for key, override in overrides.items():
        here = place.inside(key)
        try:
            name = b".".join(split_name(namespaces, key).key).decode()
        except BadValueError as mistake:
            here.refuse(str(mistake))
            continue
        if name in named:
            here.refuse(
                "is one service with another table; names that differ only in case are equal (RFC 4343)"
            )
        named[name] = override
    return named
