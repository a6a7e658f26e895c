"""What is asked: names and types, as text for dnsperf and as packets for load.c."""

import random
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.zone import ENVIRONMENT, ZONE, Service

TYPES = {"A": 1, "SRV": 33}
_PAYLOAD = 1232
_OPT = b"\0" + struct.pack("!HHIH", 41, _PAYLOAD, 0, 0)
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"

Question = tuple[str, str]
"""A name, and the mnemonic of a type."""


@dataclass(frozen=True)
class QueryFile:
    """The same questions in both forms."""

    text: Path
    """For dnsperf: a line each."""
    packets: Path
    """For load.c: as over TCP, each behind its length."""
    edns: bool
    count: int


def encode(question: Question, *, edns: bool) -> bytes:
    """A query with id 0 and RD set, as stub resolvers send it."""
    name, qtype = question
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    header = struct.pack("!6H", 0, 0x0100, 1, 0, 0, 1 if edns else 0)
    return header + labels + b"\0" + struct.pack("!HH", TYPES[qtype], 1) + (_OPT if edns else b"")


def write_queries(stem: Path, questions: Iterable[Question], *, edns: bool) -> QueryFile:
    """Write both files, beside each other."""
    text, packets = stem.with_suffix(".txt"), stem.with_suffix(".bin")
    count = 0
    with text.open("w") as lines, packets.open("wb") as packed:
        for question in questions:
            lines.write(f"{question[0]} {question[1]}\n")
            query = encode(question, edns=edns)
            packed.write(struct.pack("!H", len(query)) + query)
            count += 1
    return QueryFile(text, packets, edns, count)


def ordinary(
    services: Sequence[Service], types: Sequence[str] = ("A", "SRV"), seed: int = 1
) -> list[Question]:
    """Each service once for each type, in no order."""
    questions = [(service.owner, qtype) for service in services for qtype in types]
    random.Random(seed).shuffle(questions)
    return questions


def in_random_case(questions: Sequence[Question], count: int, seed: int = 2) -> list[Question]:
    """So many of these questions, each letter in upper or lower case by chance (0x20)."""
    dice = random.Random(seed)
    made = []
    for number in range(count):
        name, qtype = questions[number % len(questions)]
        bits = dice.getrandbits(len(name))
        spelled = "".join(c.upper() if bits >> at & 1 else c for at, c in enumerate(name))
        made.append((spelled, qtype))
    return made


def names_of_nobody(count: int, seed: int = 3, types: Sequence[str] = ("A", "SRV")) -> list[Question]:
    """So many services that there are none of, all different; these types by turns."""
    dice = random.Random(seed)
    names: dict[str, None] = {}  # in their order, which that of a set is not
    while len(names) < count:
        names["x" + "".join(dice.choices(_LETTERS, k=10))] = None
    return [(f"{name}.{ENVIRONMENT}.{ZONE}", types[number % len(types)]) for number, name in enumerate(names)]
