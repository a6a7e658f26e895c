"""Changes by their source."""

from zkdns.namespace import STATIC_SOURCE, ServiceName, parse_namespace
from zkdns.serverset.changes import (
    Change,
    DirectoryUnread,
    HostResolved,
    MembersHeld,
    SetDropped,
    SetPut,
    divide_by_source,
)

DISCOVERY = parse_namespace("/discovery/{environment}/{service}")
AURORA = parse_namespace("/aurora/{job}")


def test_changes_are_divided_by_source_in_order() -> None:
    web = SetPut("/discovery/staging/web", ServiceName("web", "staging"), ())
    held = MembersHeld(web.origin, ("member_0000000001",))
    job = SetDropped("/aurora/batch")
    unread = DirectoryUnread("/aurora")
    static = SetPut("static:api", ServiceName("api"), ())
    foreign = SetDropped("/elsewhere/web")
    host = HostResolved("host", ("192.0.2.1",))
    changes: list[Change] = [job, web, host, unread, held, static, foreign]
    assert divide_by_source(changes, (DISCOVERY, AURORA)) == (
        {
            DISCOVERY.template: [web, held],
            AURORA.template: [job, unread],
            STATIC_SOURCE: [static],
            "": [foreign],
        },
        [host],
    )
