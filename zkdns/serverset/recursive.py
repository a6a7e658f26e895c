"""The way of ZooKeeper 3.6 and later: one watch on everything, and hundreds of reads in one question.

Events and answers arrive in the order in which the server made them, so what an answer shows was either told
before, or is told after it. What has been asked waits while other questions are under way, and then goes out
together: in quiet times at once, in a storm in few and large questions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from zkdns.serverset.kazoo_private import (
    GET_CHILDREN,
    GET_DATA,
    AddWatch,
    MultiRead,
    Result,
    unusable,
)
from zkdns.serverset.kazoo_private import ask as ask_client
from zkdns.serverset.tree import SetNode
from zkdns.serverset.way import AWAY, Ask, Way

if TYPE_CHECKING:
    from kazoo.interfaces import IAsyncResult

# In one question: a quarter of them makes a start 10 % slower (measured), and more hold up what is urgent.
_MOST_READS = 1024
_MOST_BYTES = 256 << 10  # of one question; ZooKeeper drops the connection of who sends 1 MB (jute.maxbuffer)
_NAME_SIZE = 40  # bytes of a member's name, and what frames a read
_MOST_IN_FLIGHT = 4
_TRIES = 5  # of the self-test: what is read twice may change in between


class RecursiveWay(Way):
    """Lists and reads by multiRead, and hears of changes by one recursive watch on the root."""

    name = "a recursive watch"
    is_ordered = True

    def begin(self) -> None:
        """Watch the root; then see whether both ways of reading it agree."""
        self._urgent: deque[Ask] = deque()
        self._waiting: deque[Ask] = deque()
        self._in_flight = 0
        if (reason := unusable()) is not None:
            self.told.refused(reason)
            return
        ask_client(self.client, AddWatch(self.rooted(self._root.path)), partial(self.post, self._watching))

    def ask(self, ask: Ask) -> None:
        """Take a question; what only belongs to a reading of everything waits behind what has changed."""
        waiting = self._waiting if ask.is_walk or ask.is_audit else self._urgent
        if len(ask.names) <= _MOST_READS:
            waiting.append(ask)
            return
        for start in range(0, len(ask.names), _MOST_READS):
            waiting.append(ask._replace(names=ask.names[start : start + _MOST_READS]))

    def pump(self) -> None:
        """Send what there is room for."""
        while (self._urgent or self._waiting) and self._in_flight < _MOST_IN_FLIGHT:
            self._in_flight += 1
            self._send()

    def _send(self) -> None:
        asks: list[Ask] = []
        reads: list[tuple[int, str]] = []
        size = 0
        while len(reads) < _MOST_READS and size < _MOST_BYTES and (self._urgent or self._waiting):
            question = (self._urgent or self._waiting).popleft()
            asks.append(question)
            path = self.rooted(question.node.path)
            if question.names:
                reads += [(GET_DATA, f"{path}/{name}") for name in question.names]
            elif isinstance(question.node, SetNode):
                # In this order: where the set is made again in between, the events that follow tell.
                reads += ((GET_DATA, path), (GET_CHILDREN, path))
            else:
                reads.append((GET_CHILDREN, path))
            size += (len(path) + _NAME_SIZE) * (len(question.names) or 1)
        ask_client(self.client, MultiRead(reads), partial(self.post, self._receive, asks))

    def _receive(self, asks: Sequence[Ask], results: list[Result], error: BaseException | None) -> None:
        if isinstance(error, AWAY):
            return  # a new connection asks anew
        self._in_flight -= 1
        if error is not None:
            for question in asks:
                if question.names:
                    self.told.read(question, [error] * len(question.names))
                else:
                    self.told.failed(question, error)
            return
        each = iter(results)
        for question in asks:
            if question.names:
                found = islice(each, len(question.names))
                self.told.read(question, [one[0] if isinstance(one, tuple) else one for one in found])  # type: ignore[misc]  # no list: data was asked for
            else:
                self._tell_children(question, next(each), each)

    def _tell_children(self, question: Ask, first: Result, others: Iterator[Result]) -> None:
        """Of a set its own data was read too, for what znode it is."""
        is_set = isinstance(question.node, SetNode)
        names = next(others) if is_set else first
        if isinstance(names, list) and not isinstance(first, BaseException):
            self.told.listed(question, names, first[1] if isinstance(first, tuple) else 0)
            return
        failure = first if isinstance(first, BaseException) else names
        assert isinstance(failure, BaseException)  # noqa: S101 - nothing else is left
        self.told.failed(question, failure)

    # -- the self-test -------------------------------------------------------------------------------------

    def _watching(self, _: list[Result], error: BaseException | None) -> None:
        if error is not None:
            if not isinstance(error, AWAY):
                self.told.refused(f"ZooKeeper does not watch: {error!r}")
            return
        self._test(_TRIES)

    def _test(self, tries: int) -> None:
        """Read the root in both ways."""
        path = self._root.path
        reads = [(GET_DATA, self.rooted(path)), (GET_CHILDREN, self.rooted(path))]
        ask_client(self.client, MultiRead(reads), partial(self.post, self._tested, tries))

    def _tested(self, tries: int, results: list[Result], error: BaseException | None) -> None:
        if isinstance(error, AWAY):
            return
        if error is not None:
            self.told.refused(f"ZooKeeper does not answer many reads in one: {error!r}")
            return
        plain = self.client.get_children_async(self._root.path, include_data=True)
        plain.rawlink(partial(self.post, self._compare, tries, results))

    def _compare(self, tries: int, results: list[Result], plain: IAsyncResult) -> None:
        if isinstance(plain.exception, AWAY):
            return
        data, names = results
        if plain.exception is not None:
            is_same = type(names) is type(plain.exception)
        else:
            expected, status = plain.value
            is_same = isinstance(names, list) and sorted(names) == sorted(expected)
            is_same = is_same and not (isinstance(data, tuple) and data[1] != status.czxid)
        if is_same:
            self.told.begun()
        elif tries > 1:  # it may have changed in between
            self._test(tries - 1)
        else:
            self.told.refused("many reads in one do not agree with single ones")
