"""FixedSet behaves like any other watch."""

import threading

import pytest

from zkdns import BadValueError, ClosedError, EndpointSource, FixedSet


def test_endpoints_are_sorted_without_duplicates() -> None:
    fixed = FixedSet(["b:2", "a:1", "b:2", "[::1]:80", "[::ffff:10.0.0.1]:1"])
    assert fixed.endpoints == ("10.0.0.1:1", "[::1]:80", "a:1", "b:2")
    assert [member.name for member in fixed.members] == ["m0", "m1", "m2", "m3", "m4"]
    assert (fixed.event_count, fixed.is_closed) == (1, False)


def test_it_may_be_empty() -> None:
    fixed = FixedSet()
    assert (fixed.endpoints, fixed.event_count) == ((), 1)


def test_any_iterable_is_accepted_and_each_change_is_published() -> None:
    fixed, received = FixedSet(["a:1"]), list[tuple[str, ...]]()
    fixed.subscribe(lambda: received.append(fixed.endpoints))
    fixed.set_endpoints(f"a:{port}" for port in (2, 3))
    fixed.set_endpoints(["a:2", "a:3"])  # no change
    fixed.set_endpoints([])
    fixed.close()
    assert received == [("a:2", "a:3"), (), ()]
    with pytest.raises(ClosedError, match="fixed set is closed"):
        fixed.set_endpoints(["a:4"])
    assert fixed.endpoints == ()


@pytest.mark.parametrize(
    "wrong", ["a", "a:", ":1", "a:0", "a:65536", "a:x", "", "10.0.0:1", "::1:80", "a b:1"]
)
def test_an_invalid_endpoint_is_rejected_and_changes_nothing(wrong: str) -> None:
    fixed = FixedSet(["a:1"])
    with pytest.raises(BadValueError):
        fixed.set_endpoints(["b:2", wrong])
    assert (fixed.endpoints, fixed.event_count) == (("a:1",), 1)
    with pytest.raises(BadValueError):
        FixedSet([wrong])


def test_many_threads_may_set_the_endpoints() -> None:
    fixed = FixedSet()

    def work(host: str) -> None:
        for port in range(1, 300):
            fixed.set_endpoints([f"{host}:{port}", f"{host}:{port + 1}"])
            hosts = {endpoint[0] for endpoint in fixed.endpoints}
            torn.extend(hosts if len(hosts) != 1 else ())

    torn: list[str] = []
    threads = [threading.Thread(target=work, args=(host,)) for host in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torn == []
    assert fixed.event_count > 4


def test_it_is_a_source_for_balancers() -> None:
    source: EndpointSource = FixedSet(["a:1"])  # mypy checks this too
    assert source.endpoints == ("a:1",)
