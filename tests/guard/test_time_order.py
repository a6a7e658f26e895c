"""The order of times, against a plain dictionary."""

from hypothesis import given
from hypothesis import strategies as st

from zkdns.guard.time_order import TimeOrder

OPERATIONS = st.tuples(
    st.sampled_from(["set", "discard", "raise", "forget"]),
    st.sampled_from("abcde"),
    st.integers(0, 8),
)


@given(st.lists(OPERATIONS, max_size=30))
def test_it_equals_a_sorted_dictionary(operations: list[tuple[str, str, int]]) -> None:
    order: TimeOrder[str] = TimeOrder()
    model: dict[str, float] = {}
    for kind, key, when in operations:
        early = sorted((time, known) for known, time in model.items() if time <= when)
        assert order.until(when) == [known for _, known in early]
        match kind:
            case "set":
                order.set(key, when)
                model[key] = when
            case "discard":
                order.discard(key)
                model.pop(key, None)
            case "raise":
                assert order.raise_to(when) == [known for _, known in early]
                model.update({known: when for _, known in early})
            case _:
                order.discard_until(when)
                model = {known: time for known, time in model.items() if time > when}
        assert order.times == sorted(model.values())
        assert order.first == min(model.values(), default=None)
        assert len(order) == len(model)
        assert {known for known in "abcde" if known in order} == model.keys()
