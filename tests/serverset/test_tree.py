"""The changes of a ZnodeTree, for given responses and events."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from zkdns.namespace import parse_namespace
from zkdns.serverset.changes import SetChanged, SetPut
from zkdns.serverset.sync.tree import Directory, SetNode, ZnodeTree

DATA = b'{"serviceEndpoint":{"host":"10.0.0.1","port":80},"additionalEndpoints":{},"status":"ALIVE"}'


def known_set(tree: ZnodeTree) -> SetNode:
    """A published set with member_a."""
    tree.list_directory(tree.root, ["staging"])
    directory = tree.find(["staging"])
    assert isinstance(directory, Directory)
    tree.list_directory(directory, ["web"])
    web = tree.find(["staging", "web"])
    assert isinstance(web, SetNode)
    assert tree.list_set(web, ["member_a"], 1)[0] == ["member_a"]
    tree.set_data(web, "member_a", DATA)
    (put,) = tree.take_changes()
    assert isinstance(put, SetPut)
    return web


def test_the_last_member_stays_while_another_may_have_joined() -> None:
    tree = ZnodeTree(parse_namespace("/discovery/{environment}/{service}"))
    web = known_set(tree)
    assert tree.list_set(web, ["member_b"], 1)[0] == ["member_b"]
    assert tree.take_changes() == []
    tree.mark_outdated(web)  # member_c has joined, and then member_b has left before it was read
    tree.reading_failed(web, "member_b", None)
    assert tree.take_changes() == []
    assert tree.list_set(web, ["member_c"], 1)[0] == ["member_c"]
    tree.set_data(web, "member_c", DATA)
    (change,) = tree.take_changes()
    assert isinstance(change, SetChanged)
    assert [member.name for member in change.added] == ["member_c"]
    assert change.removed == ("member_a",)


def test_the_last_member_leaves_once_no_other_has_joined() -> None:
    tree = ZnodeTree(parse_namespace("/discovery/{environment}/{service}"))
    web = known_set(tree)
    tree.mark_outdated(web)
    tree.list_set(web, [], 1)
    (change,) = tree.take_changes()
    assert isinstance(change, SetChanged)
    assert change.removed == ("member_a",)


def test_a_removal_waits_for_the_reads_in_flight_but_not_for_later_ones() -> None:
    tree = ZnodeTree(parse_namespace("/discovery/{environment}/{service}"))
    web = known_set(tree)
    tree.list_set(web, ["member_a", "member_b"], 1)
    tree.set_data(web, "member_b", DATA)
    tree.take_changes()
    assert tree.list_set(web, ["member_b", "member_c", "member_d"], 1)[0] == ["member_c", "member_d"]
    assert tree.take_changes() == []
    tree.set_data(web, "member_c", DATA)
    tree.start_reading(web, "member_e")
    (change,) = tree.take_changes()
    assert isinstance(change, SetChanged)
    assert ([member.name for member in change.added], change.removed) == (["member_c"], ())
    tree.reading_failed(web, "member_d", None)
    assert tree.take_changes() == [SetChanged(web.path, (), ("member_a",))]
    tree.remove(web, "member_b")  # while another one is still read
    assert tree.take_changes() == []
    tree.set_data(web, "member_e", DATA)
    (change,) = tree.take_changes()
    assert isinstance(change, SetChanged)
    assert ([member.name for member in change.added], change.removed) == (["member_e"], ("member_b",))


def test_a_late_response_of_a_dropped_set_is_ignored() -> None:
    tree = ZnodeTree(parse_namespace("/discovery/{environment}/{service}"))
    web = known_set(tree)
    assert tree.list_set(web, ["member_a", "member_b"], 1)[0] == ["member_b"]
    tree.drop(web)
    assert "member_b" not in web.reading


@pytest.mark.parametrize(("has_event", "missed"), [(True, 0), (False, 1)])
def test_an_audit_does_not_count_a_deletion_with_an_event(has_event: bool, missed: int) -> None:
    tree = ZnodeTree(parse_namespace("/discovery/{environment}/{service}"))
    parent = known_set(tree).parent
    assert isinstance(parent, Directory)
    if has_event:
        tree.mark_deleted(parent.children["web"])
    assert tree.list_directory(parent, []) == ([], missed)
    assert parent.children == {}


def test_few_names_of_other_children_are_kept() -> None:
    tree = ZnodeTree(parse_namespace("/discovery/{environment}/{service}"))
    web = known_set(tree)
    tree.list_set(web, ["member_a", *(f"n{at:05}" for at in range(10_000)), "x" * 10_000], 1)
    assert (tree.passed_over, web.passed_over.count) == (10_001, 10_001)
    assert web.passed_over.examples == ("n00000", "n00001", "n00002")
    for at in range(1000):
        assert not tree.note_other_child(web, f"new{at}", is_created=True)
    assert web.passed_over.examples == ("n00000", "n00001", "n00002")
    assert tree.passed_over == 11_001


def test_a_set_is_listed_again_if_it_has_other_children_but_no_example() -> None:
    tree = ZnodeTree(parse_namespace("/discovery/{environment}/{service}"))
    web = known_set(tree)
    tree.list_set(web, ["a", "b", "c", "d", "e"], 1)
    assert [tree.note_other_child(web, name, is_created=False) for name in ("a", "e", "b", "c", "d")] == [
        *(False, False, False),
        True,
        False,
    ]
    tree.list_set(web, [f"n{at:04}" for at in range(200)], 1)
    relisted = [tree.note_other_child(web, f"n{at:04}", is_created=False) for at in range(200)]
    assert relisted == [False] * 99 + [True] * 100 + [False]
    assert (tree.passed_over, web.passed_over.examples) == (0, ())
    assert not tree.note_other_child(web, "unknown", is_created=False)
    assert tree.passed_over == 0


def test_the_log_of_other_children_is_limited() -> None:
    tree = ZnodeTree(parse_namespace("/{service}"))
    with capture_logs() as logs:
        for at in range(100):
            tree.list_directory(tree.root, [f"foreign{at}", f"mixed{at}"])  # the earlier sets are gone
            for name, members in (("foreign", []), ("mixed", ["member_1"])):
                node = tree.find([f"{name}{at}"])
                assert isinstance(node, SetNode)
                for _ in range(2):
                    tree.list_set(node, ["\u202ename", "vector_1", *members], at)
            assert tree.passed_over == 2
    assert [entry["log_level"] for entry in logs] == ["warning", "info"] * 20
    assert {entry["event"] for entry in logs} == {"children_passed_over"}
    assert logs[0]["example"] == "\\u202ename"


def test_unread_znodes_have_their_reasons_until_they_are_read_or_gone() -> None:
    tree = ZnodeTree(parse_namespace("/discovery/{environment}/{service}"))
    web = known_set(tree)
    tree.list_set(web, ["member_a", "member_b", "member_c"], 1)
    tree.reading_failed(web, "member_b", "access denied")
    tree.reading_failed(web, "member_c", "access denied")
    tree.listing_failed(tree.root, "access denied")
    tree.list_directory(tree.root, ["prod", "staging"])
    prod = tree.find(["prod"])
    assert isinstance(prod, Directory)
    tree.listing_failed(prod, "access denied")
    assert tree.unread == {
        "/discovery/staging/web/member_b": "access denied",
        "/discovery/staging/web/member_c": "access denied",
        "/discovery/prod": "access denied",
    }
    tree.set_data(web, "member_b", DATA)
    tree.remove(web, "member_c")
    tree.list_directory(prod, [])
    assert tree.unread == {}
    tree.list_set(web, ["member_a", "member_b", "member_d"], 1)
    tree.reading_failed(web, "member_d", "access denied")
    tree.listing_failed(web, "timeout")
    assert set(tree.unread) == {"/discovery/staging/web/member_d", "/discovery/staging/web"}
    tree.list_set(web, ["member_a", "member_d"], 1)  # member_d is read again
    assert tree.unread == {}
    tree.reading_failed(web, "member_d", "timeout")
    tree.drop(tree.root)
    assert tree.unread == {}
