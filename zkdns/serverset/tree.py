"""What is known of a namespace's znodes: directories, sets, and the members that were read.

A tree is told what ZooKeeper said, and says what changed. Never here: asking ZooKeeper, threads, time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import msgspec
import structlog

from zkdns.errors import BadMemberError, BadValueError
from zkdns.namespace import Namespace, ServiceName
from zkdns.serverset.changes import Change, SetChanged, SetDropped, SetPut, SetUnread
from zkdns.serverset.member import MEMBER_PREFIX, Member, decode_member
from zkdns.serverset.weights import VECTOR_PREFIX, Vector, Weights, parse_vector

log = structlog.get_logger("zkdns.sync")

FOLLOWED = (MEMBER_PREFIX, VECTOR_PREFIX)
"""How the names of those znodes in a set begin that are read."""


class _Znode:
    """What is known of any znode that is followed."""

    __slots__ = ("elements", "is_asked", "is_gone", "is_listed", "is_retried", "parent", "path")

    def __init__(self, path: str, elements: tuple[str, ...], parent: Directory | None) -> None:
        self.path = path
        self.elements = elements
        """Names of the znodes between the root and this one, this one's the last."""
        self.parent = parent
        self.is_gone = False
        self.is_asked = False
        """Whether its children were asked for over the present connection."""
        self.is_listed = False
        """Whether they were told, and nothing has made them doubtful since."""
        self.is_retried = False
        """Whether it will be asked again, since it could not be read."""


class Directory(_Znode):
    """A znode above the sets: the root, an environment."""

    __slots__ = ("children", "unnamed")

    def __init__(self, path: str, elements: tuple[str, ...], parent: Directory | None) -> None:
        super().__init__(path, elements, parent)
        self.children: dict[str, Node] = {}
        self.unnamed: set[str] = set()
        """Names of its children that DNS cannot carry."""


class SetNode(_Znode):
    """A set's znode and what is known of its members; a member that cannot be used is None."""

    __slots__ = (
        *("czxid", "is_doubtful", "is_published", "members", "name", "reading", "unreadable", "vectors"),
        "weights",
    )

    def __init__(self, path: str, elements: tuple[str, ...], parent: Directory, name: ServiceName) -> None:
        super().__init__(path, elements, parent)
        self.is_doubtful = False
        """Whether others may have come since it was listed, so that it will be listed again."""
        self.is_published = False
        self.name = name
        self.czxid = 0
        self.members: dict[str, Member | None] = {}
        self.vectors: dict[str, Vector | None] = {}
        """What weighs the members; like a member, one that cannot be used is None."""
        self.weights: Weights | None = None
        """What the vectors say together; None where that is to be made out yet."""
        self.reading: set[str] = set()
        """Names of members and vectors that are being read."""
        self.unreadable: set[str] = set()
        """Names of those that could not be."""


Node: TypeAlias = Directory | SetNode


class _Pending:
    """What is to be published of a set."""

    __slots__ = ("added", "is_reweighed", "removed")

    def __init__(self) -> None:
        self.added: dict[str, Member] = {}
        self.removed: set[str] = set()
        self.is_reweighed = False


class Tree:
    """The znodes of one namespace.

    A member's data never changes under its name and its parent's czxid, so what is read once is known for as
    long as both stay, over all connections.

    Args:
        namespace: where the sets lie.
    """

    def __init__(self, namespace: Namespace) -> None:
        self.root = Directory(namespace.root, (), None)
        self.is_chrooted = False
        self.bad_members: Counter[str] = Counter()
        """Members that were skipped, by reason, since the start."""
        self.bad: dict[str, str] = {}
        """The reason by the path, of all members that are skipped now."""
        self.bad_names = 0
        """Sets that DNS cannot name, since the start."""
        self._namespace = namespace
        self._pending: dict[SetNode, _Pending] = {}
        self._touched: dict[SetNode, None] = {}  # of those, where something has happened since the last look
        self._dropped: list[str] = []
        self._unread: dict[SetNode, None] = {}

    # -- finding -------------------------------------------------------------------------------------------

    def below(self, node: Node) -> Iterator[Node]:
        """The node and all below it."""
        yield node
        if isinstance(node, Directory):
            for child in node.children.values():
                yield from self.below(child)

    def sets(self) -> Iterator[SetNode]:
        """All sets that exist, also those that cannot be read."""
        return (node for node in self.below(self.root) if isinstance(node, SetNode))

    def find(self, elements: list[str]) -> Node | None:
        """The node at these elements below the root; None: it is not known."""
        node: Node | None = self.root
        for element in elements:
            node = node.children.get(element) if isinstance(node, Directory) else None
        return node

    def unreadable(self, path: str) -> set[str]:
        """Names of a set's members that could not be read."""
        return next((node.unreadable for node in self.sets() if node.path == path), set())

    # -- directories ---------------------------------------------------------------------------------------

    def list_directory(self, node: Directory, names: Iterable[str]) -> tuple[list[Node], int]:
        """A directory's children are these.

        Returns:
            Those that were not asked for yet, and of how many the listing is the first to tell.
        """
        was_listed, node.is_listed = node.is_listed, True
        wanted = self._namespace.fixed[len(node.elements)]
        present = {name for name in names if wanted in (None, name) and not self._is_foreign(node, name)}
        node.unnamed &= present
        gone = [node.children[name] for name in node.children.keys() - present]
        surprises = sum(child.is_listed for child in gone)  # else it was told, and is being asked for
        for child in gone:
            self.drop(child)
        before = len(node.children)
        nodes = [node.children.get(name) or self._make(node, name) for name in sorted(present)]
        surprises += len(node.children) - before
        unasked = [child for child in nodes if child is not None and not child.is_asked]
        return unasked, surprises if was_listed else 0

    def add_child(self, node: Directory, name: str) -> Node | None:
        """A directory has a child of this name; None where it is not followed, or known already."""
        wanted = self._namespace.fixed[len(node.elements)]
        if wanted not in (None, name) or self._is_foreign(node, name) or name in node.children:
            return None
        return self._make(node, name)

    def _is_foreign(self, parent: Directory, name: str) -> bool:
        """Whether it is ZooKeeper's own znode."""
        return name == "zookeeper" and parent.path == "/" and not self.is_chrooted

    def _make(self, parent: Directory, name: str) -> Node | None:
        """The node of a child that was not known; None where DNS cannot name it."""
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
        """A znode is gone, and with it all below; the root stays, without children.

        Each set is told, also one that was never read: others may know its members, from a snapshot.
        """
        for lost in self.below(node):
            if isinstance(lost, SetNode):
                self._pending.pop(lost, None)
                self._touched.pop(lost, None)
                self._unread.pop(lost, None)
                self._dropped.append(lost.path)
                self._clear(lost)
            if lost is not self.root:
                lost.is_gone = True
        if node.parent is not None:
            del node.parent.children[node.elements[-1]]
        elif isinstance(node, Directory):
            node.children.clear()

    # -- members -------------------------------------------------------------------------------------------

    def list_set(self, node: SetNode, names: Iterable[str], czxid: int) -> tuple[list[str], int]:
        """A set's children are these.

        Returns:
            The names to be read, and of how many the listing is the first to tell that they come or go.
        """
        was_listed, node.is_listed = node.is_listed, True
        node.is_doubtful = False
        if czxid != node.czxid:  # another znode than before: equal names mean nothing
            node.czxid = czxid
            node.is_published = False
            self._clear(node)
            self._pending.pop(node, None)
        present = {name for name in names if name.startswith(FOLLOWED)}
        node.reading &= present
        known = node.members.keys() | node.vectors.keys()
        gone = known - present
        for name in gone:
            self.remove(node, name)
        new = present - known - node.reading
        surprises = (len(gone) + len(node.unreadable ^ new)) if was_listed else 0
        node.unreadable.clear()
        unread = sorted(new | (node.vectors.keys() - node.reading))  # vectors change in their place
        node.reading.update(unread)
        self._pending_of(node)
        return unread, surprises

    def _clear(self, node: SetNode) -> None:
        """Forget what is known of a set's members, and what is being read of them."""
        node.reading.clear()
        for name, known in (*node.members.items(), *node.vectors.items()):
            if known is None:
                del self.bad[f"{node.path}/{name}"]
        node.members.clear()
        node.vectors.clear()
        node.weights = None

    def remove(self, node: SetNode, name: str) -> None:
        """A member or a vector is gone."""
        node.reading.discard(name)
        node.unreadable.discard(name)
        pending = self._pending_of(node)
        self.bad.pop(f"{node.path}/{name}", None)
        if node.vectors.pop(name, None) is not None:
            node.weights = None
            pending.is_reweighed = True
        pending.added.pop(name, None)
        if node.members.pop(name, None) is not None:
            pending.removed.add(name)

    def learn(self, node: SetNode, name: str, data: bytes) -> None:
        """The data of a member or a vector."""
        node.reading.discard(name)
        if self.bad:
            self.bad.pop(f"{node.path}/{name}", None)
        try:
            if name.startswith(MEMBER_PREFIX):
                self._joined(node, decode_member(name, data))
            else:
                node.vectors[name] = parse_vector(name, data)
                node.weights = None
                self._pending_of(node).is_reweighed = True
        except BadMemberError as error:
            self.remove(node, name)
            (node.members if name.startswith(MEMBER_PREFIX) else node.vectors)[name] = None
            self.bad[f"{node.path}/{name}"] = error.reason
            self.bad_members[error.reason] += 1
            log.warning("member_skipped", path=f"{node.path}/{name}", reason=error.reason, detail=str(error))

    def _joined(self, node: SetNode, member: Member) -> None:
        if node.vectors:
            member = _weighed(member, node)
        node.members[member.name] = member
        pending = self._pending_of(node)
        pending.added[member.name] = member
        pending.removed.discard(member.name)

    def unlisted(self, node: SetNode) -> None:
        """A set could not be listed; told where nothing is known of it."""
        if not node.is_published:
            self._unread[node] = None

    def unread(self, node: SetNode, name: str, *, is_there: bool) -> None:
        """What was being read could not be; or it is gone."""
        node.reading.discard(name)
        if is_there:
            node.unreadable.add(name)
        self._pending_of(node)

    def _pending_of(self, node: SetNode) -> _Pending:
        self._touched[node] = None
        pending = self._pending.get(node)
        if pending is None:
            pending = self._pending[node] = _Pending()
        return pending

    # -- what changed --------------------------------------------------------------------------------------

    def disconnected(self) -> None:
        """Nothing that is being asked will be answered; what is known stays."""
        for node in self.below(self.root):
            node.is_asked = node.is_listed = node.is_retried = False
            if isinstance(node, SetNode):
                node.is_doubtful = False
                node.reading.clear()

    def take_changes(self) -> list[Change]:
        """What has changed since this was last called."""
        changes: list[Change] = [SetDropped(path) for path in self._dropped]
        changes += (SetUnread(node.path, node.name) for node in self._unread)
        self._dropped.clear()
        self._unread.clear()
        # Only these: while ten thousand sets are read all of them wait, and few are complete at a time.
        touched, self._touched = self._touched, {}
        for node in touched:
            pending = self._pending[node]
            change = self._change(node, pending)
            if change is not None:
                changes.append(change)
            if not (pending.removed or pending.is_reweighed or (node.reading and not node.is_published)):
                del self._pending[node]
        return changes

    def _change(self, node: SetNode, pending: _Pending) -> Change | None:
        """What is new of a set: at first the whole of it when all is read, then each difference.

        The last who left wait for those that are being read, which have come in their place, and for a
        listing that is under way: a set whose members were all replaced, or that was deleted and made again
        at once, is never seen empty.
        """
        if not node.is_published and (node.reading or not node.is_listed):
            return None
        if pending.is_reweighed and not node.reading:
            self._reweigh(node, pending)
        if not node.is_published:
            node.is_published = True
            pending.removed.clear()
            return SetPut(
                node.path, node.name, tuple(member for member in node.members.values() if member is not None)
            )
        is_certain = node.is_listed and not node.is_doubtful and not node.reading
        removed = tuple(sorted(pending.removed)) if is_certain or any(node.members.values()) else ()
        pending.removed.difference_update(removed)
        added, pending.added = tuple(pending.added.values()), {}
        return SetChanged(node.path, added, removed) if added or removed else None

    def _reweigh(self, node: SetNode, pending: _Pending) -> None:
        """The vectors are others than before: so may be all weights."""
        pending.is_reweighed = False
        for name, member in node.members.items():
            if member is not None and (weighed := _weighed(member, node)) is not member:
                node.members[name] = pending.added[name] = weighed


def _weighed(member: Member, node: SetNode) -> Member:
    """The member with the weight that the set's vectors give it."""
    if node.weights is None:
        node.weights = Weights(filter(None, node.vectors.values()))
    weight = node.weights.of(member)
    return member if weight == member.weight else msgspec.structs.replace(member, weight=weight)
