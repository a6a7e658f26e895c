"""Parses the spellings of a service, which are the same in all commands and in the HTTP API.

    web.staging                        the name without its zone, which is tried in all zones
    web.staging.discovery              the name with its zone
    web.staging.discovery.             an absolute name, because of the final dot
    /discovery/staging/web             the path of the znode
    10.0.0.1:8080, [2001:db8::1]:8080  an address of a member, with or without the port
    web, with --environment staging    the service and its environment

Case does not matter in names, but it does in paths. In a name, the environment is one label; an environment
with dots in its name has to be written as a path, or with `--environment`.

`parse_spelling` needs no namespaces: a server has the services, and tries the possible names. `locate_set`
finds the one znode that a spelling stands for, without a server.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import msgspec

from zkdns.address import MAX_PORT
from zkdns.errors import BadValueError
from zkdns.names import MAX_NAME, Labels, lower, parse_name, wire_length
from zkdns.namespace import Namespace, ServiceName, check_znode_path, split_name

ACCEPTED: Final = "web.staging, /discovery/staging/web, or web with --environment staging"
"""The spellings in errors of commands that cannot take an address."""


class ServiceText(msgspec.Struct, frozen=True):
    """A domain name."""

    labels: Labels
    """In lower case."""
    is_absolute: bool

    def keys(self, zones: Iterable[Labels]) -> tuple[Labels, ...]:
        """Return the possible names with their zones, in the order in which to try them.

        The name as it is comes first. An environment may be named like a zone, so the zones follow also if it
        ends in one.
        """
        if self.is_absolute:
            return (self.labels,)
        names = (self.labels, *((*self.labels, *zone) for zone in zones))
        return tuple(name for name in names if wire_length(name) <= MAX_NAME)


class ZnodePath(msgspec.Struct, frozen=True):
    """The path of a znode, without slashes at its end."""

    path: str


class MemberAddress(msgspec.Struct, frozen=True):
    """An IP address, with or without a port."""

    address: str
    """In canonical spelling."""
    port: int | None = None


Spelling: TypeAlias = ServiceText | ZnodePath | MemberAddress


def parse_spelling(text: str) -> Spelling:
    """Parse a spelling of a service.

    Raises:
        BadValueError: it is neither a domain name nor a path nor an address.
    """
    if not text:
        raise BadValueError(f"'' is no service; write {ACCEPTED}")
    if text.startswith("/"):
        path = text.rstrip("/") or "/"
        check_znode_path(path)
        return ZnodePath(path)
    address = _parse_address(text)
    if address is not None:
        return address
    return ServiceText(lower(parse_name(text)), text.endswith("."))


def _parse_address(text: str) -> MemberAddress | None:
    """Parse `10.0.0.1`, `10.0.0.1:80`, `2001:db8::1` or `[2001:db8::1]:80`. None: it is no address.

    Raises:
        BadValueError: the address is followed by something that is no port.
    """
    if (whole := _ip(text.removeprefix("[").removesuffix("]"))) is not None:
        return MemberAddress(whole)
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    address = _ip(host[1:-1] if is_bracketed else host)
    if not colon or address is None or is_bracketed != (":" in address):
        return None
    if not port.isascii() or not port.isdigit() or len(port) > len(str(MAX_PORT)) or int(port) > MAX_PORT:
        raise BadValueError(f"{text!r} has the port {port!r}; ports are 0 to {MAX_PORT}")
    return MemberAddress(address, int(port))


def _ip(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


# -- without a server ----------------------------------------------------------------------------------------


class SetPlace(msgspec.Struct, frozen=True):
    """The place of a server set in ZooKeeper, as `ServerSet` takes it."""

    environment: str
    """Empty if the namespace has no `{environment}`."""
    service: str
    template: str
    """Path with the placeholders `{environment}` and `{service}` only."""
    member_prefix: str
    name: ServiceName


def locate_set(text: str, environment: str | None, namespaces: Sequence[Namespace]) -> SetPlace:
    """Return the place of the server set that a spelling stands for.

    Args:
        text: the spelling.
        environment: its environment. Then the text is the service's own name. None: the text has both.
        namespaces: the first one is that of names without a zone.

    Raises:
        BadValueError: it stands for no set, or only a server knows which one.
    """
    if environment is not None:
        return _place(namespaces[0], {"environment": environment, _own_step(namespaces[0]): text})
    spelling = parse_spelling(text)
    match spelling:
        case MemberAddress():
            raise BadValueError(f"{text!r} is an address, which only a server can find; write {ACCEPTED}")
        case ZnodePath(path):
            return _place_of_path(path, namespaces)
        case ServiceText(labels, is_absolute):
            if is_absolute and not any(_is_service_below(labels, one) for one in namespaces):
                raise BadValueError(
                    f"{text!r} ends in a dot, but is no service's name in a zone; write {ACCEPTED}"
                )
            return _place_of_name(text, namespaces)


def _is_service_below(labels: Labels, namespace: Namespace) -> bool:
    zone, length = namespace.zone, len(labels) - len(namespace.zone)
    return labels[length:] == zone and length > namespace.scope_depth


def _place_of_path(path: str, namespaces: Sequence[Namespace]) -> SetPlace:
    for namespace in namespaces:
        if namespace.matches_path(path):
            elements = path.split("/")[-namespace.depth :]
            return _place(namespace, dict(zip(namespace.steps, elements, strict=True)))
    templates = " or ".join(namespace.template for namespace in namespaces)
    raise BadValueError(f"{path!r} is not the path of a service; those are {templates}")


def _place_of_name(text: str, namespaces: Sequence[Namespace]) -> SetPlace:
    try:
        name = split_name(namespaces, text)
    except BadValueError as error:
        raise BadValueError(f"{error}; or write {ACCEPTED}") from None
    namespace = next(
        one
        for one in namespaces
        if one.zone == name.zone and one.scope_depth == (name.scope.count(".") + 1 if name.scope else 0)
    )
    scope = name.scope.split(".") if name.scope else []
    values = zip(namespace.order, (name.service, *scope), strict=True)
    return _place(namespace, {namespace.steps[step]: value for step, value in values})


def _place(namespace: Namespace, values: dict[str, str]) -> SetPlace:
    """Put the values of placeholders into a template, except those of environment and service."""
    own, elements = _own_step(namespace), []
    for step, fixed in zip(namespace.steps, namespace.fixed, strict=True):
        if fixed is not None:
            elements.append(fixed)
        elif step == own:
            elements.append("{service}")
        elif step == "environment":
            elements.append("{environment}")
        elif step in values:
            elements.append(values[step])
        else:
            raise BadValueError(
                f"{namespace.template!r} contains {{{step}}}; write the whole name or path of the service"
            )
    path = namespace.path_of({"environment": "-", **values})
    check_znode_path(path)
    return SetPlace(
        environment=values.get("environment", "") if _has_environment(namespace) else "",
        service=values[own],
        template="/".join((namespace.root.rstrip("/"), *elements)),
        member_prefix=namespace.member_prefix,
        name=namespace.service_at(path),
    )


def _own_step(namespace: Namespace) -> str:
    return namespace.steps[namespace.order[0]]


def _has_environment(namespace: Namespace) -> bool:
    return ("environment", None) in zip(namespace.steps, namespace.fixed, strict=True)
