"""Queries of a benchmark: names and types, as text for dnsperf and as packets for load.c."""

import random
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.zone import ENVIRONMENT, ZONE, Service

TYPES = {"A": 1, "TXT": 16, "SRV": 33}
_OPT = 41
_PAYLOAD = 1232
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"

Question = tuple[str, str]
"""Name and type, such as ("web.staging.discovery", "SRV")."""


@dataclass(frozen=True)
class QueryFile:
    """The same questions in both formats."""

    text: Path | None
    """For dnsperf: one question per line. None: only load.c can send them."""
    packets: Path
    """For load.c: messages, each with a length prefix as over TCP."""
    edns: bool
    count: int


def encode(question: Question, *, edns: bool, options: bytes = b"") -> bytes:
    """Encode a query as stub resolvers send it, with id 0 and RD set. `options` are encoded EDNS options."""
    name, qtype = question
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    header = struct.pack("!6H", 0, 0x0100, 1, 0, 0, 1 if edns else 0)
    opt = b"\0" + struct.pack("!HHIH", _OPT, _PAYLOAD, 0, len(options)) + options if edns else b""
    return header + labels + b"\0" + struct.pack("!HH", TYPES[qtype], 1) + opt


def write_queries(stem: Path, questions: Iterable[Question], *, edns: bool) -> QueryFile:
    """Write `stem`.txt and `stem`.bin."""
    text, packets = stem.with_suffix(".txt"), stem.with_suffix(".bin")
    count = 0
    with text.open("w") as lines, packets.open("wb") as packed:
        for question in questions:
            lines.write(f"{question[0]} {question[1]}\n")
            query = encode(question, edns=edns)
            packed.write(struct.pack("!H", len(query)) + query)
            count += 1
    return QueryFile(text, packets, edns, count)


def write_messages(stem: Path, messages: Iterable[bytes]) -> QueryFile:
    """Write `stem`.bin from encoded queries with EDNS."""
    packets = stem.with_suffix(".bin")
    count = 0
    with packets.open("wb") as packed:
        for query in messages:
            packed.write(struct.pack("!H", len(query)) + query)
            count += 1
    return QueryFile(None, packets, True, count)


def service_questions(
    services: Sequence[Service], types: Sequence[str] = ("A", "SRV"), seed: int = 1
) -> list[Question]:
    """One question for each service and type, in random order."""
    questions = [(service.owner, qtype) for service in services for qtype in types]
    random.Random(seed).shuffle(questions)
    return questions


def in_random_case(questions: Sequence[Question], count: int, seed: int = 2) -> list[Question]:
    """Repeat the questions up to `count`, each letter randomly in upper or lower case (0x20)."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        name, qtype = questions[number % len(questions)]
        bits = rng.getrandbits(len(name))
        mixed = "".join(c.upper() if bits >> at & 1 else c for at, c in enumerate(name))
        made.append((mixed, qtype))
    return made


def nonexistent_names(count: int, seed: int = 3, types: Sequence[str] = ("A", "SRV")) -> list[Question]:
    """Questions for different nonexistent services, with the types in turn."""
    rng = random.Random(seed)
    names: dict[str, None] = {}  # a set with a stable order
    while len(names) < count:
        names["x" + "".join(rng.choices(_LETTERS, k=10))] = None
    return [(f"{name}.{ENVIRONMENT}.{ZONE}", types[number % len(types)]) for number, name in enumerate(names)]
