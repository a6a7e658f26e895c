"""The forward cache counts uses of responses that the response cache serves."""

from __future__ import annotations

import secrets

from tests.forward.helpers import query, question, reply, rrset
from zkdns.address import UpstreamAddress
from zkdns.config import CacheSettings, Config, ForwardSettings
from zkdns.forward.forwarder import Forwarder
from zkdns.forward.message import Question
from zkdns.namespace import parse_namespace

NAMESPACE = parse_namespace("/discovery/{environment}/{service}", (b"discovery",))
POPULAR, RARE = "popular.example.com.", "rare{}.example.com."


def test_response_in_constant_use_is_not_evicted_by_unique_queries() -> None:
    upstream = (UpstreamAddress("127.0.0.1", 5300),)
    config = Config(
        listen=(),
        namespaces=(NAMESPACE,),
        forward=ForwardSettings(upstreams=upstream),
        cache=CacheSettings(entries=3),
    )
    forwarder = Forwarder(config, (), secrets.token_bytes(16))
    removed: list[Question] = []
    forwarder.cache.on_removed = lambda entry: removed.append(entry.question)

    def put(name: str) -> None:
        made = reply("A", [rrset("A", name)], name=name)
        forwarder.cache.put(question("A", name), made, forwarder.now)

    put(POPULAR)
    answer = forwarder.answer(query("A", POPULAR), 512, lambda body, _question: body)
    for number in range(5):
        forwarder.now += 1
        next(answer.responses)  # the response cache has it; the forwarder is not called
        put(RARE.format(number))
    assert removed == [question("A", RARE.format(number)) for number in range(3)]
