"""The changes of a ZnodeTree, for given responses and events."""

from __future__ import annotations

import pytest

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
    tree.reading_failed(web, "member_b", exists=False)
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
