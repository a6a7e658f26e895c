"""What commands ask of a running server: `zkdns flush` as it reaches the answerers, and what is refused."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.feed_helpers import answering, publishing, until
from zkdns.config import load_config
from zkdns.daemon.commands import respond
from zkdns.daemon.control import Accept, FlushCaches, Flushed, Refused, Response
from zkdns.daemon.feed import Publisher

NOT_CACHED = "lies in the zone discovery, which is never forwarded or cached"


def respond_to(name: str | None, **flags: Any) -> Response | Iterator[Response]:
    """What a server without answerers responds."""
    config = load_config(flags=flags, environment={}, file=None)
    return respond(FlushCaches(name), config, None, Publisher())


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        (None, None),
        (".", None),
        ("WWW.Example.com.", b"\3www\7example\3com\0"),
        ("a\\.b.example", b"\3a.b\7example\0"),
        ("discovery.example", b"\x09discovery\7example\0"),
    ],
)
def test_a_name_reaches_each_answerer_as_the_wire_has_it(
    tmp_path: Path, name: str | None, wire: bytes | None
) -> None:
    config = load_config(flags={"workers": "3"}, environment={}, file=None)
    feed = str(tmp_path / "feed")

    async def scenario() -> None:
        async with publishing(feed) as publisher, answering(feed) as one, answering(feed) as other:
            await until(lambda: len(publisher._subscribers) == 2)
            assert respond(FlushCaches(name), config, None, publisher) == Flushed(2, 3)
            await until(lambda: one.flushed and other.flushed)
            assert one.flushed == other.flushed == [wire]

    asyncio.run(scenario())


def test_where_nobody_answers_nobody_is_told() -> None:
    assert respond_to(None) == Flushed(0, 1)


@pytest.mark.parametrize("name", ["discovery", "web.staging.DISCOVERY."])
def test_our_own_names_are_not_cached(name: str) -> None:
    assert respond_to(name) == Refused("nothing", f"{name} {NOT_CACHED}")


def test_what_is_no_name_is_a_mistake() -> None:
    response = respond_to("a..b")
    assert isinstance(response, Refused)
    assert (response.reason, response.sentence) == (
        "mistaken",
        "'a..b' is not a domain name: it has an empty label",
    )


def test_who_forwards_nothing_has_nothing_to_forget(tmp_path: Path) -> None:
    refused = Refused("nothing", "this server forwards nothing, so nothing is cached")
    assert respond_to(None, upstream=("none",)) == refused
    file = tmp_path / "zkdns.toml"
    for upstreams, response in (("none", refused), ("192.0.2.1", Flushed(0, 1))):
        file.write_text(f'upstream = "none"\n[forward.example]\nupstreams = "{upstreams}"')
        config = load_config(flags={}, environment={}, file=str(file))
        assert respond(FlushCaches(None), config, None, Publisher()) == response


def test_losses_are_accepted_too() -> None:
    config = load_config(flags={}, environment={}, file=None)
    assert respond(Accept(None), config, None, Publisher()) == Refused("nothing", "nothing is held")
