"""The static file: services without ZooKeeper, written in TOML.

    [services."web.staging"]
    members = ["10.0.0.1:8080", "[2001:db8::1]:8080",
               { host = "10.0.0.2", port = 8080, shard = 2, additional = { admin = "10.0.0.2:9990" } }]

Members are named `m0`, `m1`, … in the order of the file. A file with any error is rejected as a whole,
because applying only a part of an edit could be worse than applying none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TypeAlias, TypeVar

from zkdns.address import MAX_PORT, parse_host_port
from zkdns.config.load import parse_toml, read_toml
from zkdns.errors import BadValueError, ConfigError
from zkdns.names import Labels
from zkdns.namespace import Namespace, ServiceName, split_name
from zkdns.serverset.member import Endpoint, Member, Status, canonical_host

StaticSets: TypeAlias = dict[ServiceName, tuple[Member, ...]]
_T = TypeVar("_T")

_ENDPOINT_KEYS = ("host", "port")
_MEMBER_KEYS = (*_ENDPOINT_KEYS, "shard", "status", "additional", "metadata")
_MEMBER_FORM = '"HOST:PORT" or { host = "HOST", port = PORT }'
_INT32 = 2**31
_MAX_FILE = 2**28  # bytes; more than a million members


def load_static(path: Path, namespaces: Sequence[Namespace]) -> StaticSets:
    """Read a static file. A service name without a zone belongs to the first namespace.

    Raises:
        ConfigError: with every error in the file and its key, or why the file cannot be read.
    """
    try:
        document = read_toml(str(path), max_bytes=_MAX_FILE)
    except BadValueError as error:
        raise ConfigError([f"{path}: {error}"]) from None
    return _read(document, namespaces, str(path))


def load_demo(namespaces: Sequence[Namespace]) -> StaticSets:
    """The built-in example of `zkdns serve --demo`."""
    text = resources.files("zkdns.serverset").joinpath("demo.toml").read_text(encoding="utf-8")
    return parse_static(text, namespaces, origin="demo.toml")


def parse_static(text: str, namespaces: Sequence[Namespace], *, origin: str) -> StaticSets:
    """Parse the text of a static file. `origin` is the file's name in error messages.

    Raises:
        ConfigError: with every error that was found.
    """
    try:
        document = parse_toml(text.encode(errors="surrogatepass"))
    except BadValueError as error:
        raise ConfigError([f"{origin}: {error}"]) from None
    return _read(document, namespaces, origin)


def _read(document: Mapping[str, object], namespaces: Sequence[Namespace], origin: str) -> StaticSets:
    reader = _Reader(origin, namespaces)
    sets = reader.document(document)
    if reader.errors:
        raise ConfigError(reader.errors)
    return sets


class _Reader:
    """Reads the document of a static file and collects each error with its key."""

    def __init__(self, origin: str, namespaces: Sequence[Namespace]) -> None:
        self.errors: list[str] = []
        self._origin = origin
        self._namespaces = namespaces

    def document(self, document: Mapping[str, object]) -> StaticSets:
        self._check_keys("", document, ("services",), 'a static file has tables [services."NAME"]')
        sets: StaticSets = {}
        spelled: dict[Labels, str] = {}
        for text, body in self._table("services", document.get("services", {})).items():
            where = f'services."{text}"'
            name = self._try(where, partial(split_name, self._namespaces, text))
            members = self._members(where, body)
            if name is None:
                continue
            if name.key in spelled:
                self._error(where, f"is the same name as {spelled[name.key]!r}: names ignore case")
            spelled[name.key] = text
            sets[name] = members
        return sets

    def _members(self, where: str, body: object) -> tuple[Member, ...]:
        table = self._table(where, body)
        self._check_keys(f"{where}.", table, ("members",), "a service has members")
        entries = table.get("members", [])
        if not isinstance(entries, list):
            self._error(f"{where}.members", f"is {entries!r}; write a list of {_MEMBER_FORM}")
            return ()
        members = (
            self._member(f"{where}.members[{index}]", f"m{index}", entry)
            for index, entry in enumerate(entries)
        )
        return tuple(member for member in members if member)

    def _member(self, where: str, name: str, entry: object) -> Member | None:
        if isinstance(entry, str):
            endpoint = self._endpoint(where, entry)
            return Member(name, endpoint) if endpoint else None
        if not isinstance(entry, dict):
            self._error(where, f"is {entry!r}; write {_MEMBER_FORM}")
            return None
        self._check_keys(f"{where}.", entry, _MEMBER_KEYS, f"a member has {', '.join(_MEMBER_KEYS)}")
        endpoint = self._endpoint(where, entry)
        additional: dict[str, Endpoint | None] = {}
        for key, value in self._table(f"{where}.additional", entry.get("additional", {})).items():
            here = f"{where}.additional.{key}"
            if isinstance(value, dict):
                self._check_keys(
                    f"{here}.", value, _ENDPOINT_KEYS, f"an endpoint has {', '.join(_ENDPOINT_KEYS)}"
                )
            additional[key] = self._endpoint(here, value)
        status = self._status(f"{where}.status", entry.get("status", "ALIVE"))
        shard = self._shard(f"{where}.shard", entry.get("shard"))
        metadata = self._table(f"{where}.metadata", entry.get("metadata", {}))
        for key, value in metadata.items():
            if not isinstance(value, str):
                self._error(f"{where}.metadata.{key}", f"is {value!r}; write text in quotes")
        return Member(
            name=name,
            service=endpoint,
            additional={key: value for key, value in additional.items() if value},
            status=status,
            shard=shard,
            metadata={key: value for key, value in metadata.items() if isinstance(value, str)},
        )

    def _endpoint(self, where: str, value: object) -> Endpoint | None:
        if isinstance(value, str):
            return self._try(where, partial(_endpoint_of, value))
        if not isinstance(value, dict):
            self._error(where, f"is {value!r}; write {_MEMBER_FORM}")
            return None
        host, port = value.get("host"), value.get("port")
        if not isinstance(host, str) or not host:
            found = "is missing" if host is None else f"is {host!r}"
            self._error(f"{where}.host", f"{found}; write an IP address or a host name")
            host = None
        if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= MAX_PORT:
            found = "is missing" if port is None else f"is {port!r}"
            self._error(f"{where}.port", f"{found}; a port is 1 to {MAX_PORT}")
            port = None
        bare = self._try(f"{where}.host", partial(canonical_host, host)) if host else None
        return Endpoint(bare, port) if bare and port else None

    def _status(self, where: str, value: object) -> Status:
        if isinstance(value, str) and value.upper() in Status.__members__:
            return Status(value.upper())
        self._error(where, f"is {value!r}; one of {', '.join(Status)}")
        return Status.UNKNOWN

    def _shard(self, where: str, value: object) -> int | None:
        if value is None or (
            isinstance(value, int) and not isinstance(value, bool) and -_INT32 <= value < _INT32
        ):
            return value
        self._error(where, f"is {value!r}; a shard is a 32-bit integer")
        return None

    def _check_keys(
        self, where: str, table: Mapping[str, object], known: Sequence[str], accepted: str
    ) -> None:
        for key in sorted(table.keys() - set(known)):
            self._error(f"{where}{key}", f"is not known; {accepted}")

    def _table(self, where: str, value: object) -> Mapping[str, object]:
        if isinstance(value, dict):
            return value
        self._error(where, f"is {value!r}; write a table")
        return {}

    def _try(self, where: str, read: Callable[[], _T]) -> _T | None:
        try:
            return read()
        except BadValueError as error:
            self._error(where, str(error))
            return None

    def _error(self, where: str, problem: str) -> None:
        self.errors.append(f"{self._origin}: {where}: {problem}")


def _endpoint_of(text: str) -> Endpoint:
    address = parse_host_port(text)
    return Endpoint(canonical_host(address.host), address.port)
