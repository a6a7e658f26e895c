"""Templates that map znode paths to service names: `/discovery/{environment}/{service}`.

A template is a path in which each placeholder stands for one znode. The service's own placeholder is
`{service}` or, without that, the last one. Its value comes first in the name. The values of the other
placeholders follow in reverse order: `/aurora/{role}/{environment}/{job}` gives the name
`{job}.{environment}.{role}`.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from zkdns.errors import BadValueError
from zkdns.names import Labels, check_name, to_text, without_zone

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_ZONE: Labels = (b"discovery",)
MEMBER_PREFIX: Final = "member_"
"""The prefix of members' znodes that Finagle, go.serversets and Aurora write."""
VECTOR_PREFIX: Final = "vector_"
"""The prefix of the znodes that weight members."""

_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")
# The characters that ZooKeeper rejects in a path (PathUtils.validatePath): control, private-use and special
# characters, and surrogates, which represent everything above U+FFFF in Java.
_NOT_IN_PATHS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\uf8ff\ufff0-\U0010ffff]")


class ServiceName(msgspec.Struct, frozen=True, order=True, omit_defaults=True):
    """The name of a service, such as `web` in `staging` in the zone `discovery`.

    Service and scope are spelled as the znodes are, and may contain dots. `scope` is empty if the template
    has only one placeholder. As text, the name has no zone.
    """

    service: str
    scope: str = ""
    zone: Labels = DEFAULT_ZONE
    """In lower case."""

    def __str__(self) -> str:
        return f"{self.service}.{self.scope}" if self.scope else self.service

    @property
    def absolute(self) -> str:
        """The unique name with its zone, as text: `web.staging.discovery`."""
        return f"{self}.{to_text(self.zone)}"

    def without(self, zone: Labels) -> str:
        """The name as text, as commands and the API show it, by the rule of `zkdns.names.without_zone`."""
        texts = (*str(self).split("."), *(to_text((label,)) for label in self.zone))
        return ".".join(texts[: len(without_zone(self.key, zone))])

    @property
    def service_labels(self) -> Labels:
        """The labels of the service alone. `api.v2` has two."""
        return tuple(self.service.encode().split(b"."))

    @property
    def labels(self) -> Labels:
        """All labels including the zone's, spelled as the znodes are."""
        return (*str(self).encode().split(b"."), *self.zone)

    @property
    def key(self) -> Labels:
        """The labels in lower case. Two services with one key have the same DNS name (RFC 4343)."""
        return (*str(self).encode().lower().split(b"."), *self.zone)  # as bytes, so that only ASCII is folded

    def check(self) -> None:
        """Check that the name is valid in DNS.

        Raises:
            BadValueError: an empty label, a label over 63 bytes, a name over 255 bytes, or invalid Unicode.
        """
        try:
            labels = self.labels
        except UnicodeEncodeError:
            raise BadValueError(f"{str(self)!r} is not a domain name: it is not UTF-8") from None
        check_name(labels, str(self))


class Namespace(msgspec.Struct, frozen=True):
    """A parsed template. `root` is the fixed path before the first placeholder.

    `steps` are the elements of the path below the root: the name of each placeholder, and fixed elements as
    they are. `fixed` has None for each placeholder; at the level of a fixed element, znodes of other names
    are ignored. Names in this namespace end in `zone` (in lower case).
    """

    template: str
    root: str
    steps: tuple[str, ...]
    fixed: tuple[str | None, ...]
    pattern: tuple[str | None, ...]
    """As `fixed`, for the elements of the whole path, from ZooKeeper's root or the chroot."""
    order: tuple[int, ...]
    """The indices of the placeholders in the order of the name's parts, the service's own first."""
    zone: Labels = DEFAULT_ZONE
    member_prefix: str = MEMBER_PREFIX
    """Children of a service's znode with this prefix are members."""
    only: tuple[tuple[str, ...], ...] = ()
    """The services that are followed: the elements of each pattern below the root, in which `*` stands for
    any text. Empty: all services."""

    def __str__(self) -> str:
        text = f"{self.template} in the zone {to_text(self.zone)}"
        # Snapshots contain this text, and older ones were written without the prefix.
        return text if self.member_prefix == MEMBER_PREFIX else f"{text}, members {self.member_prefix!r}"

    @property
    def depth(self) -> int:
        """The number of levels from the root to a service's znode."""
        return len(self.steps)

    @property
    def scope_depth(self) -> int:
        """The number of placeholders, not counting the service's own."""
        return len(self.order) - 1

    def name_of(self, elements: Sequence[str]) -> ServiceName:
        """The name of a service; `elements` is the path of its znode below the root."""
        service, *scope = (elements[step] for step in self.order)
        return ServiceName(service, ".".join(scope), self.zone)

    def service_at(self, path: str) -> ServiceName:
        """The name of the service with its znode at a path that `matches_path`."""
        return self.name_of(path.split("/")[-self.depth :])

    def overlaps(self, other: Namespace) -> bool:
        """Whether a znode can be a service in both namespaces."""
        here, there = self.pattern, other.pattern
        return len(here) == len(there) and all(
            None in pair or pair[0] == pair[1] for pair in zip(here, there, strict=True)
        )

    def matches_path(self, path: str) -> bool:
        """Whether a znode at this path would be a service."""
        elements = path.split("/")[1:]
        return len(elements) == len(self.pattern) and all(
            fixed in (None, element) for fixed, element in zip(self.pattern, elements, strict=True)
        )

    def follows(self, elements: Sequence[str]) -> bool:
        """Whether the znode with these elements below the root is a followed service, or may lead to one."""
        return not self.only or any(all(map(_matches, pattern, elements)) for pattern in self.only)

    def follows_path(self, path: str) -> bool:
        """As `follows`, for the path of a znode in this namespace."""
        return self.follows([*filter(None, path[len(self.root.rstrip("/")) :].split("/"))])

    def follows_name(self, labels: Labels) -> bool:
        """Whether a name in the zone may belong to a followed service.

        Args:
            labels: as in `may_be_below`.
        """
        named = [label for label in labels if label not in (b"_tcp", b"_udp")]  # RFC 2782: _web._tcp.staging
        texts = [label.decode("utf-8", "replace").lower().removeprefix("_") for label in named]
        own, scope = texts[: len(texts) - self.scope_depth], texts[-self.scope_depth :]
        services = [".".join(own[start:]) for start in range(len(own))] or None
        for pattern in self.only:
            service, *wanted = (pattern[step].lower() for step in self.order)
            is_in_scope = all(map(_matches, reversed(wanted), reversed(scope if wanted else [])))
            if is_in_scope and (services is None or any(_matches(service, one) for one in services)):
                return True
        return not self.only

    @property
    def followed_roots(self) -> tuple[str, ...]:
        """Paths of the znodes below which all followed services are: the root, or longer ones."""
        roots: set[str] = set()
        for pattern in self.only:
            literal = itertools.takewhile(lambda element: "*" not in element, pattern)
            roots.add("/".join((self.root.rstrip("/"), *literal)) or "/")
        return tuple(
            sorted(root for root in roots if not any(root.startswith(f"{other}/") for other in roots))
        ) or (self.root,)

    @property
    def only_as_text(self) -> str:
        """The patterns of the followed services, as in the configuration."""
        names = (".".join(pattern[step] for step in self.order) for pattern in self.only)
        return ", ".join(f'"{name}"' for name in names)

    def contains(self, path: str) -> bool:
        """Whether a znode is the root of this namespace or below it."""
        return self.root in (path, "/") or path.startswith(self.root + "/")

    def environment_of(self, path: str) -> str | None:
        """The value of `{environment}` in the path of a znode in this namespace. None: it has none."""
        below = path[len(self.root.rstrip("/")) + 1 :].split("/")
        for element, step, fixed in zip(below, self.steps, self.fixed, strict=False):
            if step == "environment" and fixed is None:
                return element or None
        return None

    def may_be_below(self, directory: str, labels: Labels) -> bool:
        """Whether a name in the zone may belong to a service below a znode of this namespace.

        Args:
            directory: the path of the znode.
            labels: the labels of the name before the zone, in lower case. They may begin with labels below
                the service, or be only the last labels of a service's name.
        """
        elements = directory.removeprefix(self.root).strip("/").split("/")
        own, scope = labels[: len(labels) - self.scope_depth], labels[-self.scope_depth :]
        last_labels = dict(zip(reversed(self.order[1:]), reversed(scope), strict=False))
        for step, element in enumerate(filter(None, elements)):
            if self.fixed[step] is not None:
                continue
            wanted = tuple(element.encode("utf-8", "replace").lower().split(b"."))
            if step == self.order[0]:
                if own and own[-len(wanted) :] != wanted:
                    return False
            elif len(wanted) == 1 and last_labels.get(step, wanted[0]) != wanted[0]:
                return False  # one with dots has several labels, so that the positions are unknown
        return True

    def path_of(self, values: Mapping[str, str]) -> str:
        """The path of a service's znode for these values of the placeholders.

        Raises:
            BadValueError: a placeholder has no value, or one that cannot be the name of a znode.
        """
        elements = []
        for step, fixed in zip(self.steps, self.fixed, strict=True):
            value = values.get(step) if fixed is None else fixed
            elements.append(checked_znode_name(step, value))
        return "/".join((self.root.rstrip("/"), *elements))

    def parse_pattern(self, text: str) -> tuple[str, ...]:
        """Parse a pattern for `only`, such as `*.prod`.

        Raises:
            BadValueError: too few parts.
        """
        parts = text.split(".")
        if len(parts) <= self.scope_depth or "" in parts or "/" in text:
            wanted = ".".join("{" + self.steps[step] + "}" for step in self.order)
            raise BadValueError(
                f"{text!r} is no pattern of services; write {wanted} without the zone; * stands for any text"
            )
        cut = len(parts) - self.scope_depth
        values = dict(zip(self.order, (".".join(parts[:cut]), *parts[cut:]), strict=True))
        return tuple(values.get(step, fixed) or "" for step, fixed in enumerate(self.fixed))

    def split_name(self, text: str) -> ServiceName:
        """Parse `web.staging`: the last `scope_depth` labels are the scope.

        Raises:
            BadValueError: too few labels, or labels that are not valid in DNS.
        """
        parts = text.removesuffix(".").split(".")
        if len(parts) <= self.scope_depth:
            wanted = ".".join("{" + self.steps[step] + "}" for step in self.order)
            raise BadValueError(f"{text!r} is not a service's name; write {wanted}, without the zone")
        cut = len(parts) - self.scope_depth
        name = ServiceName(".".join(parts[:cut]), ".".join(parts[cut:]), self.zone)
        name.check()
        return name


def member_prefix_of(namespaces: Sequence[Namespace], path: str) -> str:
    """The member prefix of the service with its znode at this path."""
    if len(namespaces) == 1:
        return namespaces[0].member_prefix
    found = (namespace.member_prefix for namespace in namespaces if namespace.matches_path(path))
    return next(found, MEMBER_PREFIX)


def split_name(namespaces: Sequence[Namespace], text: str) -> ServiceName:
    """Parse `web.staging`, a name in the first namespace, or `hello.prod.www.aurora` with its zone.

    If several namespaces share the zone, the first one with names of that length is used. If the name is too
    short to have both that zone and a service, it is a name without a zone, since an environment may be named
    like a zone.

    Raises:
        BadValueError: too few labels, or labels that are not valid in DNS.
    """
    for namespace, below in _candidates(namespaces, text.removesuffix(".")):
        if below.count(".") >= namespace.scope_depth:
            return namespace.split_name(below)
    return namespaces[0].split_name(text)


def _candidates(namespaces: Sequence[Namespace], text: str) -> Iterator[tuple[Namespace, str]]:
    """The namespaces with a zone that the name ends in, longest zone first, and the name without the zone."""
    for namespace in sorted(namespaces, key=lambda namespace: -len(namespace.zone)):
        ending = "." + to_text(namespace.zone)
        tail = text[-len(ending) :]
        if tail.isascii() and tail.lower() == ending:
            yield namespace, text[: -len(ending)]


ALL_SOURCES = ""
"""The source of all data that has no other source."""
STATIC_SOURCE = "static"
"""The source of the sets of the static file."""
STATIC_PREFIX = "static:"
"""What the origins of the sets of the static file begin with."""


def source_of(path: str, namespaces: Sequence[Namespace]) -> str:
    """The source of a set or a directory: the template of its namespace, or `STATIC_SOURCE`.

    `ALL_SOURCES` if no namespace contains it.
    """
    if path.startswith(STATIC_PREFIX):
        return STATIC_SOURCE
    sets = (namespace.template for namespace in namespaces if namespace.matches_path(path))
    directories = (namespace.template for namespace in namespaces if namespace.contains(path))
    return next(sets, None) or next(directories, ALL_SOURCES)


def template_of_static(origin: str, namespaces: Sequence[Namespace]) -> str:
    """The template of the namespace that a set of a static file has its name from, by the set's origin."""
    fitting = [one for one in namespaces if origin.lower().endswith(f".{to_text(one.zone)}")]
    return max(fitting or namespaces[:1], key=lambda one: len(one.zone)).template


@functools.cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split("*"))), re.DOTALL)


def _matches(pattern: str, element: str) -> bool:
    """Whether an element of a path matches a pattern, in which `*` stands for any text."""
    return _pattern(pattern).fullmatch(element) is not None


def checked_znode_name(what: str, value: object) -> str:
    """Check that a value can be the name of a znode. `what` is its name in the error.

    Raises:
        BadValueError: it is no text, is empty, contains a slash, or is `.` or `..`.
    """
    if not isinstance(value, str) or not value or "/" in value or value in (".", ".."):
        raise BadValueError(f"{what} is {value!r}; a znode's name is not empty and contains no slash")
    return value


def check_znode_path(path: str) -> None:
    """Check that ZooKeeper accepts a path, such as `/discovery/staging` or `/`.

    Raises:
        BadValueError: a relative path, an empty element, `.` or `..`, or an invalid character.
    """
    elements = path.split("/")[1:] if path != "/" else []
    if not path.startswith("/") or "" in elements:
        raise BadValueError(
            f"{path!r} is not a path: a path starts with a slash, ends without one, and has no empty element"
        )
    if "." in elements or ".." in elements:
        raise BadValueError(f"{path!r} is not a path: ZooKeeper rejects the elements '.' and '..'")
    if refused := _NOT_IN_PATHS.search(path):
        raise BadValueError(f"{path!r} is not a path: ZooKeeper rejects the character {refused[0]!r}")


def parse_member_prefix(text: str) -> str:
    """Check the prefix of members' znodes, such as `member_`.

    Raises:
        BadValueError: it is empty, cannot begin the name of a znode, or also matches `vector_` znodes.
    """
    if not text or "/" in text:
        raise BadValueError(
            f"is {text!r}; write the beginning of members' names, such as 'member_', without slashes"
        )
    if refused := _NOT_IN_PATHS.search(text):
        raise BadValueError(f"is {text!r}; ZooKeeper rejects the character {refused[0]!r} in names")
    if text.startswith(VECTOR_PREFIX) or VECTOR_PREFIX.startswith(text):
        raise BadValueError(f"is {text!r}, which also matches {VECTOR_PREFIX!r}: those znodes weight members")
    return text


def parse_namespace(
    template: str, zone: Labels = DEFAULT_ZONE, member_prefix: str = MEMBER_PREFIX
) -> Namespace:
    """Parse a template such as `/discovery/{environment}/{service}`. Its names end in the zone.

    The member prefix is not checked; `parse_member_prefix` does that.

    Raises:
        BadValueError: the template is invalid; the text says why.
    """
    check_znode_path(template)
    elements = template[1:].split("/")
    fixed = [None if _PLACEHOLDER.fullmatch(element) else element for element in elements]
    for element in fixed:
        if element is not None and set(element) & set("{}"):
            raise BadValueError(
                f"{template!r} contains {element!r}; a placeholder is a whole element, such as {{service}}"
            )
    placeholders = [index for index, element in enumerate(fixed) if element is None]
    steps = [element if fixed[index] is not None else element[1:-1] for index, element in enumerate(elements)]
    named = [steps[index] for index in placeholders]
    if not placeholders or fixed[-1] is not None:
        raise BadValueError(
            f"{template!r} does not end in a placeholder, such as /discovery/{{environment}}/{{service}}"
        )
    if len(set(named)) != len(named):
        raise BadValueError(f"{template!r} has two placeholders with the same name")
    start = placeholders[0]
    own = placeholders[named.index("service") if "service" in named else -1]
    order = [own, *(index for index in reversed(placeholders) if index != own)]
    return Namespace(
        template=template,
        root="/" + "/".join(elements[:start]),
        steps=tuple(steps[start:]),
        fixed=tuple(fixed[start:]),
        pattern=tuple(fixed),
        order=tuple(index - start for index in order),
        zone=zone,
        member_prefix=member_prefix,
    )
