"""Templates that map znode paths to service names: `/discovery/{environment}/{service}`.

A template is a path in which each placeholder stands for one znode. The service's own placeholder is
`{service}` or, without that, the last one. Its value comes first in the name. The values of the other
placeholders follow in reverse order: `/aurora/{role}/{environment}/{job}` gives the name
`{job}.{environment}.{role}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from zkdns.errors import BadValueError
from zkdns.names import Labels, check_name, to_text

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_ZONE: Labels = (b"discovery",)

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
    order: tuple[int, ...]
    """The indices of the placeholders in the order of the name's parts, the service's own first."""
    zone: Labels = DEFAULT_ZONE

    def __str__(self) -> str:
        return f"{self.template} in the zone {to_text(self.zone)}"

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

    def overlaps(self, other: Namespace) -> bool:
        """Whether a znode can be a service in both namespaces."""
        here, there = self._pattern(), other._pattern()
        return len(here) == len(there) and all(
            None in pair or pair[0] == pair[1] for pair in zip(here, there, strict=True)
        )

    def matches_path(self, path: str) -> bool:
        """Whether a znode at this path would be a service."""
        elements, pattern = path.split("/")[1:], self._pattern()
        return len(elements) == len(pattern) and all(
            fixed in (None, element) for fixed, element in zip(pattern, elements, strict=True)
        )

    def _pattern(self) -> tuple[str | None, ...]:
        """The elements of the whole path, from ZooKeeper's root or the chroot."""
        return (*filter(None, self.root.split("/")), *self.fixed)

    def path_of(self, values: Mapping[str, str]) -> str:
        """The path of a service's znode for these values of the placeholders.

        Raises:
            BadValueError: a placeholder has no value, or one that cannot be the name of a znode.
        """
        elements = []
        for step, fixed in zip(self.steps, self.fixed, strict=True):
            value = values.get(step) if fixed is None else fixed
            if not value or "/" in value or value in (".", ".."):
                raise BadValueError(f"{step} is {value!r}; a znode's name is not empty and contains no slash")
            elements.append(value)
        return "/".join((self.root.rstrip("/"), *elements))

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


def check_znode_path(path: str) -> None:
    """Check that ZooKeeper accepts a path, such as `/discovery/staging` or `/`.

    Raises:
        BadValueError: a relative path, an empty element, `.` or `..`, or an invalid character.
    """
    elements = path.split("/")[1:] if path != "/" else []
    if not path.startswith("/") or "" in elements:
        raise BadValueError(
            f"{path!r} is not a path: it starts with a slash, does not end with one, has no empty element"
        )
    if "." in elements or ".." in elements:
        raise BadValueError(f"{path!r} is not a path: ZooKeeper rejects the elements '.' and '..'")
    if refused := _NOT_IN_PATHS.search(path):
        raise BadValueError(f"{path!r} is not a path: ZooKeeper rejects the character {refused[0]!r}")


def parse_namespace(template: str, zone: Labels = DEFAULT_ZONE) -> Namespace:
    """Parse a template such as `/discovery/{environment}/{service}`. Its names end in the zone.

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
        order=tuple(index - start for index in order),
        zone=zone,
    )
