"""`OptionForms`: queries with EDNS options, without the data of the option that differs in most of them.

Many clients send a new cookie or another client subnet in each query. Two queries of the same length have the
same form if they differ only in the data of that option, at the same place. They have the same key without
options (`EdnsOptions.separate`), so that only the first of them is parsed.

    query      header, question, OPT record, option's code and length │ data │ other options
               ├──────────────────────── form ────────────────────────┤      ├──── form ────┤
"""

from __future__ import annotations

from typing import NamedTuple

MAX_OPTION_FORMS = 4096
"""Maximum number of forms; and of whole queries, for those without a cookie."""
MAX_QUERY_WITH_OPTIONS = 512
"""Bytes of the longest query whose form is stored."""
# Places of the data in queries of one length. Each takes a lookup, and most lengths have one or two.
_MAX_PLACES = 4


class Place(NamedTuple):
    """The place of the data in queries of one length, and the keys of the forms that have it there."""

    start: int
    end: int
    keys: dict[bytes, bytes]


class OptionForms:
    """The keys without options of queries that have some, by whole query and by form.

    A key never becomes invalid, because it depends only on the query.

    Attributes:
        whole: keys by whole query.
        places: the places of the data by length of the query.
    """

    def __init__(self) -> None:
        self.whole: dict[bytes, bytes] = {}
        self.places: dict[int, tuple[Place, ...]] = {}
        self._count = 0

    def add_whole(self, query: bytes, key: bytes) -> None:
        """Store the key of a whole query. If there are too many, the others are forgotten."""
        if len(query) <= MAX_QUERY_WITH_OPTIONS:
            if len(self.whole) >= MAX_OPTION_FORMS:
                self.whole.clear()
            self.whole[query] = key

    def add(self, query: bytes, data: slice, key: bytes) -> None:
        """Store the key of all queries that differ from this one only in `data`; bounded as `add_whole`."""
        if len(query) > MAX_QUERY_WITH_OPTIONS:
            return
        if self._count >= MAX_OPTION_FORMS:
            self.places, self._count = {}, 0
        places = self.places.get(len(query), ())
        for place in places:
            if place.start == data.start and place.end == data.stop:
                break
        else:
            place = Place(data.start, data.stop, {})
            if len(places) >= _MAX_PLACES:
                self._count -= len(places[0].keys)
                places = places[1:]
            self.places[len(query)] = (*places, place)
        self._count -= len(place.keys)
        place.keys[query[: place.start] + query[place.end :]] = key
        self._count += len(place.keys)
