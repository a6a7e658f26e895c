"""The children of a service's znode that are no members: their number, and the names of a few.

Another program may have written thousands of them, so their names are not kept, and their data is not read.
"""

from __future__ import annotations

from collections.abc import Collection
from heapq import nsmallest

import msgspec

from zkdns.serverset.formats import guess_format, shorten_name

MAX_EXAMPLES = 3
_MAX_NAME = 2048  # characters; Dubbo's names have hundreds


class PassedOver(msgspec.Struct, frozen=True, gc=False):
    """Some children of a znode. Weights (`vector_…`) do not belong to them."""

    count: int = 0
    examples: tuple[str, ...] = ()
    """The names of at most `MAX_EXAMPLES` children. It may be empty although there are children."""

    def added(self, name: str) -> PassedOver:
        """The same with one more child."""
        is_example = len(self.examples) < MAX_EXAMPLES and len(name) <= _MAX_NAME
        return PassedOver(self.count + 1, (*self.examples, name) if is_example else self.examples)

    def removed(self, name: str) -> PassedOver:
        """The same without this child."""
        return PassedOver(
            max(self.count - 1, 0), tuple(example for example in self.examples if example != name)
        )


NO_CHILDREN = PassedOver()


def pass_over(names: Collection[str]) -> PassedOver:
    """Count these children, and keep the first names in order."""
    if not names:
        return NO_CHILDREN
    return PassedOver(
        len(names), tuple(nsmallest(MAX_EXAMPLES, (name for name in names if len(name) <= _MAX_NAME)))
    )


def log_fields(path: str, children: PassedOver) -> dict[str, object]:
    """The fields of the log event `children_passed_over`, for the service at this path."""
    formats = {name: guess_format(name) for name in children.examples}
    example = next((name for name, found in formats.items() if found), next(iter(formats), ""))
    return {
        "path": path,
        "count": children.count,
        "example": shorten_name(example),
        "format": formats.get(example) or "unknown",
    }
