"""How znode paths and service names belong together: `/discovery/{environment}/{service}`.

A template is a path whose placeholders stand for one znode each. The service's own placeholder is
`{service}` where there is one, else the last; its value leads the name. The values of the others follow
from the deepest to the shallowest, so the one nearest to the root ends up next to the zone:
`/aurora/{role}/{environment}/{job}` makes `{job}.{environment}.{role}`.
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
# What ZooKeeper refuses in a path (PathUtils.validatePath): controls, private use, specials,
# and surrogates, which are the halves of everything above U+FFFF in Java.
_NOT_IN_PATHS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\uf8ff\ufff0-\U0010ffff]")


class ServiceName(msgspec.Struct, frozen=True, order=True, omit_defaults=True):
    """What a service is called: `web` in `staging`, in the zone `discovery`.

    Service and scope are kept as the znodes spell them; each may hold dots. `scope` is empty where a template
    has one placeholder only. As text it is what people say among themselves: without the zone.
    """

    service: str
    scope: str = ""
    zone: Labels = DEFAULT_ZONE
    """In lower case."""

    def __str__(self) -> str:
        return f"{self.service}.{self.scope}" if self.scope else self.service

    @property
    def absolute(self) -> str:
        """The name as text with its zone, which no other service has: `web.staging.discovery`."""
        return f"{self}.{to_text(self.zone)}"

    @property
    def service_labels(self) -> Labels:
        """The labels of the service alone: `api.v2` is two."""
        return tuple(self.service.encode().split(b"."))

    @property
    def labels(self) -> Labels:
        """All labels, the zone's included, in the znodes' own spelling."""
        return (*str(self).encode().split(b"."), *self.zone)

    @property
    def key(self) -> Labels:
        """The labels in lower case: two services with one key answer to one name (RFC 4343)."""
        return (*str(self).encode().lower().split(b"."), *self.zone)  # as bytes: only ASCII is folded

    def check(self) -> None:
        """Check that DNS can carry the name.

        Raises:
            BadValueError: an empty label, one over 63 bytes, a name over 255, text that is not Unicode.
        """
        try:
            labels = self.labels
        except UnicodeEncodeError:
            raise BadValueError(f"{str(self)!r} is not a domain name: it is not UTF-8") from None
        check_name(labels, str(self))


class Namespace(msgspec.Struct, frozen=True):
    """A template, taken apart: `root` is the fixed path before the first placeholder.

    `steps` are the path's elements below the root; a placeholder is None in `fixed`, anything else the one
    name that is followed there. The names that it makes end in `zone` (in lower case).
    """

    template: str
    root: str
    steps: tuple[str, ...]
    fixed: tuple[str | None, ...]
    order: tuple[int, ...]
    """Which steps make the name, the service's own first."""
    zone: Labels = DEFAULT_ZONE

    def __str__(self) -> str:
        return f"{self.template} in the zone {to_text(self.zone)}"

    @property
    def depth(self) -> int:
        """Levels between the root and a service's znode."""
        return len(self.steps)

    @property
    def scope_depth(self) -> int:
        """Placeholders beside the service's own."""
        return len(self.order) - 1

    def name_of(self, elements: Sequence[str]) -> ServiceName:
        """The name of the service whose znode lies at these elements below the root."""
        service, *scope = (elements[step] for step in self.order)
        return ServiceName(service, ".".join(scope), self.zone)

    def meets(self, other: Namespace) -> bool:
        """Whether there can be a znode that is a service's in both namespaces."""
        here, there = self._pattern(), other._pattern()
        return len(here) == len(there) and all(
            None in pair or pair[0] == pair[1] for pair in zip(here, there, strict=True)
        )

    def holds(self, path: str) -> bool:
        """Whether a znode at this path would be a service's."""
        elements, pattern = path.split("/")[1:], self._pattern()
        return len(elements) == len(pattern) and all(
            fixed in (None, element) for fixed, element in zip(pattern, elements, strict=True)
        )

    def _pattern(self) -> tuple[str | None, ...]:
        """The whole path's elements, from ZooKeeper's root (or the chroot) down."""
        return (*filter(None, self.root.split("/")), *self.fixed)

    def path_of(self, values: Mapping[str, str]) -> str:
        """The znode's path for the placeholders' values.

        Raises:
            BadValueError: a placeholder without a value, or a value that cannot be a znode's name.
        """
        elements = []
        for step, fixed in zip(self.steps, self.fixed, strict=True):
            value = values.get(step) if fixed is None else fixed
            if not value or "/" in value or value in (".", ".."):
                raise BadValueError(f"{step} is {value!r}; a znode's name is not empty and holds no slash")
            elements.append(value)
        return "/".join((self.root.rstrip("/"), *elements))

    def split_name(self, text: str) -> ServiceName:
        """Read `web.staging` as this namespace would name it: the last `scope_depth` labels are the scope.

        Raises:
            BadValueError: too few labels, or labels that DNS cannot carry.
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
    """Read `web.staging`, which is a name of the first namespace, or `hello.prod.www.aurora` with its zone.

    Where several namespaces share the zone, the first one that has names of that length is meant. A name that
    is too short for the zone it ends in is one without a zone after all: an environment may be called so.

    Raises:
        BadValueError: too few labels, or labels that DNS cannot carry.
    """
    for namespace, below in _readings(namespaces, text.removesuffix(".")):
        if below.count(".") >= namespace.scope_depth:
            return namespace.split_name(below)
    return namespaces[0].split_name(text)


def _readings(namespaces: Sequence[Namespace], text: str) -> Iterator[tuple[Namespace, str]]:
    """The namespaces in whose zone the name lies, the longest zone first, and what is before that zone."""
    for namespace in sorted(namespaces, key=lambda namespace: -len(namespace.zone)):
        ending = "." + to_text(namespace.zone)
        tail = text[-len(ending) :]
        if tail.isascii() and tail.lower() == ending:
            yield namespace, text[: -len(ending)]


def check_znode_path(path: str) -> None:
    """Check that ZooKeeper would take the path: `/discovery/staging`, and `/` for the root itself.

    Raises:
        BadValueError: a relative path, an empty element, `.` or `..`, a character that no path may hold.
    """
    elements = path.split("/")[1:] if path != "/" else []
    if not path.startswith("/") or "" in elements:
        raise BadValueError(
            f"{path!r} is not a path: it begins with a slash, ends without, has no empty element"
        )
    if "." in elements or ".." in elements:
        raise BadValueError(f"{path!r} is not a path: an element is '.' or '..', which ZooKeeper refuses")
    if refused := _NOT_IN_PATHS.search(path):
        raise BadValueError(f"{path!r} is not a path: ZooKeeper refuses the character {refused[0]!r}")


def parse_namespace(template: str, zone: Labels = DEFAULT_ZONE) -> Namespace:
    """Read a template such as `/discovery/{environment}/{service}`; its names end in the zone.

    Raises:
        BadValueError: what is wrong with it.
    """
    check_znode_path(template)
    elements = template[1:].split("/")
    fixed = [None if _PLACEHOLDER.fullmatch(element) else element for element in elements]
    for element in fixed:
        if element is not None and set(element) & set("{}"):
            raise BadValueError(
                f"{template!r} holds {element!r}; a placeholder is a whole element, as {{service}}"
            )
    placeholders = [index for index, element in enumerate(fixed) if element is None]
    steps = [element if fixed[index] is not None else element[1:-1] for index, element in enumerate(elements)]
    named = [steps[index] for index in placeholders]
    if not placeholders or fixed[-1] is not None:
        raise BadValueError(
            f"{template!r} does not end in a placeholder, as /discovery/{{environment}}/{{service}}"
        )
    if len(set(named)) != len(named):
        raise BadValueError(f"{template!r} names a placeholder twice")
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
