"""The copy of a namespace's znodes: directories, sets, and the members that were read.

`TreeSync` reports responses and events to the tree, and takes the resulting changes from it. Only this file
writes the state of nodes. It sends no requests to ZooKeeper and uses no threads and no clock.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final, TypeAlias

import msgspec
import structlog

from zkdns.errors import BadMemberError, BadValueError
from zkdns.namespace import VECTOR_PREFIX, Namespace, ServiceName
from zkdns.serverset.changes import (
    Change,
    DirectoryUnread,
    SetChanged,
    SetDropped,
    SetPut,
    SetUnread,
)
from zkdns.serverset.member import Member, decode_member
from zkdns.serverset.passed_over import NO_CHILDREN, PassedOver, log_fields, pass_over
from zkdns.serverset.service_counts import ServiceCount
from zkdns.serverset.weights import Vector, Weights, parse_vector

log = structlog.get_logger("zkdns.sync")

_MAX_REPORTS = 20  # log entries of each level about children that are passed over
# A set with more of these children gets new examples from the next audit. With thousands, each listing takes
# milliseconds, and their deletion could cause a listing per round trip.
_MAX_RELISTED = 100


_NO_NAMES: Final[frozenset[str]] = frozenset()
"""Shared by all sets without such names, since an empty set of its own takes 216 bytes, and one that was not
empty before keeps its hash table. Ten thousand sets take 9 MB less."""


def _with(names: AbstractSet[str], added: Iterable[str]) -> AbstractSet[str]:
    """The names and the added ones. A set with names is changed in place."""
    if isinstance(names, set):
        names.update(added)
        return names
    return set(added) or _NO_NAMES


def _without(names: AbstractSet[str], name: str) -> AbstractSet[str]:
    """The names without this one. A set with names is changed in place."""
    if isinstance(names, set):
        names.discard(name)
    return names or _NO_NAMES


class _Znode:
    """The common state of directories and sets."""

    __slots__ = ("elements", "is_gone", "is_listed", "is_requested", "is_retrying", "parent", "path")

    def __init__(self, path: str, elements: tuple[str, ...], parent: Directory | None) -> None:
        self.path = path
        self.elements = elements
        """The names on the path from the root to this znode, its own last."""
        self.parent = parent
        self.is_gone = False
        self.is_requested = False
        """Whether its list of children was requested over the present connection."""
        self.is_listed = False
        """Whether its list of children has arrived, and no event has made it outdated since."""
        self.is_retrying = False
        """Whether it could not be read and another try is scheduled."""


class Directory(_Znode):
    """A znode above the sets, such as the root or an environment."""

    __slots__ = ("children", "unnamed")

    def __init__(self, path: str, elements: tuple[str, ...], parent: Directory | None) -> None:
        super().__init__(path, elements, parent)
        self.children: dict[str, Node] = {}
        self.unnamed: set[str] = set()
        """Children with names that are not valid in DNS."""


class SetNode(_Znode):
    """A set's znode and its members. In `members`, None stands for an invalid member."""

    __slots__ = (
        *("czxid", "data_hashes", "is_outdated", "is_published", "members", "name", "reading"),
        *("passed_over", "unreadable", "vectors", "weights"),
    )

    def __init__(self, path: str, elements: tuple[str, ...], parent: Directory, name: ServiceName) -> None:
        super().__init__(path, elements, parent)
        self.is_outdated = False
        """Whether members may have joined since the last listing. Another listing follows."""
        self.is_published = False
        self.name = name
        self.czxid = 0
        self.members: dict[str, Member | None] = {}
        self.vectors: dict[str, Vector | None] = {}
        """The vectors that weight the members. None stands for an invalid vector."""
        self.weights: Weights | None = None
        """The combined vectors. None: not computed since the last change of a vector."""
        self.data_hashes: dict[str, int] = {}
        """The hash of the data of each member and vector that was read. Without one, it is read again."""
        self.reading: AbstractSet[str] = _NO_NAMES
        """Names of members and vectors with a read in flight."""
        self.unreadable: AbstractSet[str] = _NO_NAMES
        """Names of members and vectors that could not be read."""
        self.passed_over = NO_CHILDREN
        """The children that are neither members nor vectors."""


Node: TypeAlias = Directory | SetNode


class _Pending:
    """The changes of a set that are not published yet."""

    __slots__ = ("added", "is_reweighted", "removed")

    def __init__(self) -> None:
        self.added: dict[str, Member] = {}
        self.removed: dict[str, AbstractSet[str] | None] = {}
        """Names of members that have left, each with the names that were being read when its removal was to
        be published for the first time. None: that was not yet."""
        self.is_reweighted = False


class ZnodeTree:
    """The znodes of one namespace.

    A member is decoded when its data is new, and kept over reconnects. Equal data is recognized by its hash:
    that costs less memory than the data, and unlike a version it also holds if an ensemble was restored from
    an older state and counts its transactions again from there.

    Args:
        namespace: the sets to follow.
        is_chrooted: whether the client has a chroot, so that `/zookeeper` is an ordinary znode.
    """

    def __init__(self, namespace: Namespace, *, is_chrooted: bool = False) -> None:
        self.root = Directory(namespace.root, (), None)
        self.bad_members: Counter[str] = Counter()
        """How many members were skipped since the start, by reason."""
        self.ignored_fields: Counter[str] = Counter()
        """How many optional fields were ignored since the start because they were invalid, by name."""
        self.bad: dict[str, str] = {}
        """The members that are skipped now: the reason by path."""
        self.unread_directories: set[str] = set()
        """Paths of the directories that could not be listed at the last attempt."""
        self.unread: dict[str, str] = {}
        """The znodes that could not be listed or read at the last attempt: the reason by path."""
        self.bad_names = 0
        """How many sets had a name that is not valid in DNS, since the start."""
        self.passed_over = 0
        """How many children of sets are neither members nor vectors now."""
        self._namespace = namespace
        self._member_prefix = namespace.member_prefix
        self._child_prefixes = (namespace.member_prefix, VECTOR_PREFIX)
        self._reported: set[str] = set()  # sets whose children that are passed over were logged
        self._reports: Counter[int] = Counter()  # the numbers of these log entries, by level
        self._is_chrooted = is_chrooted
        self._has_loopback = False  # whether a member with a loopback address was logged
        self._pending: dict[SetNode, _Pending] = {}
        # Sets of `_pending` that may have changed since the last `take_changes`.
        self._touched: dict[SetNode, None] = {}
        self._dropped: list[str] = []
        self._unread: dict[SetNode, None] = {}
        self._directories: list[DirectoryUnread] = []
        # Unread directories that were listed now, until everything below them was read: only then it is known
        # which names do not exist.
        self._recovering: dict[Directory, None] = {}

    # -- finding -------------------------------------------------------------------------------------------

    def walk(self, node: Node) -> Iterator[Node]:
        """The node and all its descendants."""
        yield node
        if isinstance(node, Directory):
            for child in node.children.values():
                yield from self.walk(child)

    def sets(self) -> Iterator[SetNode]:
        """All sets that exist, including unreadable ones."""
        return (node for node in self.walk(self.root) if isinstance(node, SetNode))

    def find(self, elements: Sequence[str]) -> Node | None:
        """The node at this path below the root. None: it is unknown."""
        node: Node | None = self.root
        for element in elements:
            node = node.children.get(element) if isinstance(node, Directory) else None
        return node

    def nearest(self, elements: Sequence[str]) -> Node:
        """The node at this path below the root, or the nearest known one above it."""
        for length in range(len(elements), 0, -1):
            if (node := self.find(elements[:length])) is not None:
                return node
        return self.root

    def unreadable(self, path: str) -> AbstractSet[str]:
        """Names of a set's members that could not be read."""
        return next((node.unreadable for node in self.sets() if node.path == path), _NO_NAMES)

    def service_counts(self) -> Iterator[ServiceCount]:
        """A row for each set, in no order. The tree may change between two of them."""
        return map(self._service_count, list(self.sets()))

    def _service_count(self, node: SetNode) -> ServiceCount:
        unknown = (name for name in node.unreadable | node.reading if name.startswith(self._member_prefix))
        return ServiceCount(
            environment=node.name.scope,
            service=node.name.service,
            members=None if node.path in self.unread else len(node.members.keys() | unknown),
            path=node.path,
            passed_over=node.passed_over.count,
            examples=tuple(sorted(node.passed_over.examples)),
        )

    def empty_directories(self) -> Iterator[str]:
        """The paths of all directories below the root without children that lead to sets."""
        for node in self.walk(self.root):
            is_empty = isinstance(node, Directory) and not node.children and not node.unnamed
            if is_empty and node.is_listed and node is not self.root:
                yield node.path

    # -- requests ------------------------------------------------------------------------------------------

    def start_listing(self, node: Node) -> None:
        """Record that a node's list of children is requested."""
        node.is_requested = True

    def start_reading(self, node: SetNode, name: str) -> bool:
        """Record that a member or vector is read. False: a read is already in flight, or the set is gone."""
        node.data_hashes.pop(name, None)  # the change of its data is known, so the audit must not count it
        if node.is_gone or name in node.reading:
            return False
        node.reading = _with(node.reading, (name,))
        return True

    def start_verifying(self, node: SetNode) -> tuple[str, ...]:
        """Record that all known data of a set is read again. Returns the names to read."""
        if node.is_gone or not node.is_listed:
            return ()
        names = tuple(sorted(node.data_hashes.keys() - node.reading))
        node.reading = _with(node.reading, names)
        return names

    def start_retry(self, node: Node) -> bool:
        """Record that a retry of a node is scheduled. False: one already was."""
        if node.is_retrying:
            return False
        node.is_retrying = True
        return True

    def end_retry(self, node: Node) -> None:
        """Record that the scheduled retry of a node begins."""
        node.is_retrying = False

    def cancel_requests(self) -> None:
        """Forget all requests in flight, since the connection has ended. The contents stay."""
        for node in self.walk(self.root):
            node.is_requested = node.is_listed = node.is_retrying = False
            if isinstance(node, SetNode):
                node.is_outdated = False
                node.reading = _NO_NAMES

    # -- directories ---------------------------------------------------------------------------------------

    def list_directory(self, node: Directory, names: Iterable[str]) -> tuple[list[Node], int]:
        """Update a directory from its list of children.

        Returns:
            The children that were not requested yet, and the number of changes that no event had reported.
        """
        was_listed, node.is_listed = node.is_listed, True
        self.unread.pop(node.path, None)
        if node.path in self.unread_directories:
            self._recovering[node] = None
        present = {name for name in names if self._is_included(node, name)}
        node.unnamed &= present
        gone = [node.children[name] for name in node.children.keys() - present]
        missed = sum(child.is_listed for child in gone)  # an event would have reset `is_listed`
        for child in gone:
            self.drop(child)
        before = len(node.children)
        nodes = [node.children.get(name) or self._make(node, name) for name in sorted(present)]
        missed += len(node.children) - before
        unrequested = [child for child in nodes if child is not None and not child.is_requested]
        return unrequested, missed if was_listed else 0

    def add_child(self, node: Directory, name: str) -> Node | None:
        """Add a child to a directory. None: the namespace does not include it, or it is already known."""
        if name in node.children or not self._is_included(node, name):
            return None
        return self._make(node, name)

    def mark_deleted(self, node: Node) -> None:
        """Record the deletion event of a node. The next listing shows whether it was created again."""
        node.is_listed = False

    def _is_included(self, parent: Directory, name: str) -> bool:
        """Whether a child of a directory is or may lead to a set that is followed.

        ZooKeeper's own znode `/zookeeper` is not.
        """
        wanted = self._namespace.fixed[len(parent.elements)]
        is_reserved = name == "zookeeper" and parent.path == "/" and not self._is_chrooted
        is_possible = wanted in (None, name) and not is_reserved
        return is_possible and self._namespace.follows((*parent.elements, name))

    def _make(self, parent: Directory, name: str) -> Node | None:
        """Create the node of a new child. None: its name is not valid in DNS."""
        path = f"{parent.path.rstrip('/')}/{name}"
        elements = (*parent.elements, name)
        if len(elements) < self._namespace.depth:
            parent.children[name] = directory = Directory(path, elements, parent)
            return directory
        service = self._namespace.name_of(elements)
        try:
            service.check()
        except BadValueError as error:
            if name not in parent.unnamed:
                parent.unnamed.add(name)
                self.bad_names += 1
                log.warning("znode_skipped", path=path, reason=str(error))
            return None
        parent.children[name] = node = SetNode(path, elements, parent, service)
        return node

    def drop(self, node: Node) -> None:
        """Remove a deleted znode with its descendants. The root stays, without children.

        Every set is published as dropped, even one that was never read, since the table may have its members
        from a snapshot.
        """
        for lost in self.walk(node):
            if isinstance(lost, SetNode):
                self._pending.pop(lost, None)
                self._touched.pop(lost, None)
                self._unread.pop(lost, None)
                self._dropped.append(lost.path)
                self._clear(lost)
                self.passed_over -= lost.passed_over.count
                lost.passed_over = NO_CHILDREN
                self._forget_unreadable(lost)
            else:
                self._recovering.pop(lost, None)
                self._set_unread(lost, is_unread=False)
            self.unread.pop(lost.path, None)
            if lost is not self.root:
                lost.is_gone = True
        if node.parent is not None:
            del node.parent.children[node.elements[-1]]
        elif isinstance(node, Directory):
            node.children.clear()

    # -- members -------------------------------------------------------------------------------------------

    def list_set(self, node: SetNode, names: Iterable[str], czxid: int) -> tuple[list[str], int]:
        """Update a set from its list of children.

        At the first listing over a connection, the data of all members is read, since events may have been
        missed before. Later only the data that is new or outdated.

        Returns:
            The names to read, and the number of members that have joined or left without an event.
        """
        was_listed, node.is_listed = node.is_listed, True
        self.unread.pop(node.path, None)
        node.is_outdated = False
        if czxid != node.czxid:  # the set was created again, so members with known names are new ones
            node.czxid = czxid
            node.is_published = False
            self._clear(node)
            self._pending.pop(node, None)
        children = set(names)
        present = {name for name in children if name.startswith(self._child_prefixes)}
        has_members = any(name.startswith(self._member_prefix) for name in present)
        self._pass_over(node, pass_over(children - present), has_members=has_members)
        node.reading = {name for name in node.reading if name in present} or _NO_NAMES
        known = node.members.keys() | node.vectors.keys()
        gone = known - present
        for name in gone:
            self.remove(node, name)
        new = present - known - node.reading
        missed = len(gone) + len(new - node.unreadable) + len(node.unreadable - known - present)
        self._forget_unreadable(node)
        unread = sorted((present - node.data_hashes.keys() if was_listed else present) - node.reading)
        node.reading = _with(node.reading, unread)
        self._pending_of(node)
        return unread, missed if was_listed else 0

    def _forget_unreadable(self, node: SetNode) -> None:
        """Forget which members and vectors could not be read."""
        for name in node.unreadable:
            self.unread.pop(f"{node.path}/{name}", None)
        node.unreadable = _NO_NAMES

    def is_read(self, name: str) -> bool:
        """Whether a child of a set is a member or a vector, by its name. Other children are passed over."""
        return name.startswith(self._child_prefixes)

    def note_other_child(self, node: SetNode, name: str, *, is_created: bool) -> bool:
        """Record that a child which is passed over was created or deleted.

        Returns:
            Whether to list the set again, since no example is left of the remaining children.
        """
        before = node.passed_over
        after = before.added(name) if is_created else before.removed(name)
        self._pass_over(node, after, has_members=bool(node.members or node.reading))
        return not is_created and not after.examples and 0 < after.count <= _MAX_RELISTED

    def passed_over_of(self, path: str) -> PassedOver:
        """The children of a set that are passed over."""
        return next((node.passed_over for node in self.sets() if node.path == path), NO_CHILDREN)

    def _pass_over(self, node: SetNode, children: PassedOver, *, has_members: bool) -> None:
        """Store the children that are passed over, and log the first ones of a set."""
        self.passed_over += children.count - node.passed_over.count
        node.passed_over = children
        level = logging.INFO if has_members else logging.WARNING
        is_reported = node.path in self._reported
        if not children.count or is_reported or self._reports[level] >= _MAX_REPORTS:
            return
        self._reported.add(node.path)
        self._reports[level] += 1
        log.log(level, "children_passed_over", **log_fields(node.path, children))

    def mark_outdated(self, node: Node) -> None:
        """Record that a set's list of children may have changed. Another listing follows."""
        if isinstance(node, SetNode):
            node.is_outdated = True

    def _clear(self, node: SetNode) -> None:
        """Forget a set's members, vectors and reads in flight."""
        node.reading = _NO_NAMES
        for name, known in (*node.members.items(), *node.vectors.items()):
            if known is None:
                del self.bad[f"{node.path}/{name}"]
        node.members.clear()
        node.vectors.clear()
        node.data_hashes.clear()
        node.weights = None

    def remove(self, node: SetNode, name: str) -> None:
        """Remove a member or a vector."""
        node.reading = _without(node.reading, name)
        node.unreadable = _without(node.unreadable, name)
        node.data_hashes.pop(name, None)
        pending = self._pending_of(node)
        if self.unread:
            self.unread.pop(f"{node.path}/{name}", None)
        self.bad.pop(f"{node.path}/{name}", None)
        if node.vectors.pop(name, None) is not None:
            node.weights = None
            pending.is_reweighted = True
        pending.added.pop(name, None)
        if node.members.pop(name, None) is not None:
            pending.removed[name] = None

    def mark_data_outdated(self, node: SetNode, name: str) -> None:
        """Record an event about the data of a member or vector: it is read again at the next listing."""
        node.data_hashes.pop(name, None)

    def set_data(self, node: SetNode, name: str, data: bytes) -> bool:
        """Decode and store the data of a member or a vector.

        Returns:
            Whether it differs from the data that was read before, although no event has reported that.
        """
        node.reading = _without(node.reading, name)
        if self.unread:
            self.unread.pop(f"{node.path}/{name}", None)
        data_hash = hash(data)
        before = node.data_hashes.get(name)
        if before == data_hash:
            self._pending_of(node)  # the set may be complete now
            return False
        if self.bad:
            self.bad.pop(f"{node.path}/{name}", None)
        on_ignored = partial(self._on_ignored, node, name)
        try:
            if name.startswith(self._member_prefix):
                self._add_member(node, decode_member(name, data, on_ignored))
            else:
                node.vectors[name] = parse_vector(name, data, on_ignored)
                node.weights = None
                self._pending_of(node).is_reweighted = True
        except BadMemberError as error:
            self.remove(node, name)
            (node.members if name.startswith(self._member_prefix) else node.vectors)[name] = None
            self.bad[f"{node.path}/{name}"] = error.reason
            self.bad_members[error.reason] += 1
            log.warning("member_skipped", path=f"{node.path}/{name}", reason=error.reason, detail=str(error))
        node.data_hashes[name] = data_hash
        return before is not None

    def _on_ignored(self, node: SetNode, name: str, field: str, why: str) -> None:
        self.ignored_fields[field] += 1
        log.warning("member_field_ignored", path=f"{node.path}/{name}", field=field, detail=why)

    def _add_member(self, node: SetNode, member: Member) -> None:
        service = member.service
        if service is not None and _is_loopback(service.host) and not self._has_loopback:
            self._has_loopback = True
            log.warning("member_on_loopback", path=f"{node.path}/{member.name}", address=service.host)
        if node.vectors:
            member = _weighted(member, node)
        node.members[member.name] = member
        pending = self._pending_of(node)
        pending.added[member.name] = member
        pending.removed.pop(member.name, None)

    def listing_failed(self, node: Node, reason: str) -> None:
        """Record that a node could not be listed. Publish it as unread, unless a set's members are known."""
        self.unread[node.path] = reason
        if isinstance(node, Directory):
            self._recovering.pop(node, None)
            self._set_unread(node, is_unread=True)
        elif not node.is_published:
            self._unread[node] = None

    def _set_unread(self, node: Directory, *, is_unread: bool) -> None:
        if (node.path in self.unread_directories) == is_unread:
            return
        if is_unread:
            self.unread_directories.add(node.path)
        else:
            self.unread_directories.discard(node.path)
        self._directories.append(DirectoryUnread(node.path, is_unread))

    def reading_failed(self, node: SetNode, name: str, reason: str | None) -> None:
        """Record that a member or vector could not be read. The reason None: it no longer exists."""
        node.reading = _without(node.reading, name)
        node.data_hashes.pop(name, None)
        if reason is not None:
            node.unreadable = _with(node.unreadable, (name,))
            self.unread[f"{node.path}/{name}"] = reason
        self._pending_of(node)

    def _pending_of(self, node: SetNode) -> _Pending:
        self._touched[node] = None
        pending = self._pending.get(node)
        if pending is None:
            pending = self._pending[node] = _Pending()
        return pending

    # -- changes -------------------------------------------------------------------------------------------

    def take_changes(self) -> list[Change]:
        """The changes since the last call."""
        changes: list[Change] = [SetDropped(path) for path in self._dropped]
        changes += (SetUnread(node.path, node.name) for node in self._unread)
        self._dropped.clear()
        self._unread.clear()
        # Only touched sets: during a start ten thousand sets are pending, and few become complete at a time.
        touched, self._touched = self._touched, {}
        for node in touched:
            pending = self._pending[node]
            change = self._change(node, pending)
            if change is not None:
                changes.append(change)
            if not (pending.removed or pending.is_reweighted or (node.reading and not node.is_published)):
                del self._pending[node]
        for directory in [node for node in self._recovering if not any(map(_is_unknown, self.walk(node)))]:
            del self._recovering[directory]
            self._set_unread(directory, is_unread=False)
        changes += self._directories
        self._directories.clear()
        return changes

    def _change(self, node: SetNode, pending: _Pending) -> Change | None:
        """The next change of a set: first the whole set, once it is completely read, then the differences.

        A removal waits for the reads in flight, since a replacement may be among the results, and the removal
        of the last members also for listings. So a set never appears smaller or empty while members are
        replaced, or while it is deleted and created again.
        """
        if not node.is_published and (node.reading or not node.is_listed):
            return None
        if pending.is_reweighted and not node.reading:
            self._reweight(node, pending)
        if not node.is_published:
            node.is_published = True
            pending.removed.clear()
            return SetPut(
                node.path, node.name, tuple(member for member in node.members.values() if member is not None)
            )
        is_certain = node.is_listed and not node.is_outdated and not node.reading
        removed = (
            tuple(sorted(self._certain_removals(node, pending)))
            if is_certain or any(node.members.values())
            else ()
        )
        for name in removed:
            del pending.removed[name]
        added, pending.added = tuple(pending.added.values()), {}
        return SetChanged(node.path, added, removed) if added or removed else None

    def settled(self, node: SetNode) -> SetPut | None:
        """A set as it was published. None: it was not, or reads or changes of it are outstanding."""
        is_settled = node.is_published and node.is_listed and not node.is_outdated and not node.is_gone
        if not is_settled or node.reading or node in self._pending:
            return None
        return SetPut(node.path, node.name, tuple(filter(None, node.members.values())))

    def _certain_removals(self, node: SetNode, pending: _Pending) -> list[str]:
        """The removals that wait for no read. Reads that begin later do not delay them."""
        reading = frozenset(node.reading)
        for name, waits_for in pending.removed.items():
            pending.removed[name] = reading if waits_for is None else waits_for & reading
        return [name for name, waits_for in pending.removed.items() if not waits_for]

    def _reweight(self, node: SetNode, pending: _Pending) -> None:
        """Compute all weights again, after a change of the vectors."""
        pending.is_reweighted = False
        for name, member in node.members.items():
            if member is not None and (weighted := _weighted(member, node)) is not member:
                node.members[name] = pending.added[name] = weighted


def _is_unknown(node: Node) -> bool:
    """Whether a node was not read yet, and no attempt to read it has failed."""
    is_read = node.is_published if isinstance(node, SetNode) else node.is_listed
    return not is_read and not node.is_retrying


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host == "::1"


def _weighted(member: Member, node: SetNode) -> Member:
    """The member with its weight from the set's vectors."""
    if node.weights is None:
        node.weights = Weights(filter(None, node.vectors.values()))
    weight = node.weights.of(member)
    return member if weight == member.weight else msgspec.structs.replace(member, weight=weight)
