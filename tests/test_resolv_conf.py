"""resolv.conf is parsed as glibc does, and edited only where necessary."""

from __future__ import annotations

import pytest

from zkdns.resolv_conf import edit_resolv_conf, parse_resolv_conf


def test_the_last_search_line_counts_and_options_add_up() -> None:
    read = parse_resolv_conf(
        "# nameserver 9.9.9.9\n nameserver 8.8.8.8\nnameserver 10.0.0.1 # first\nnameserver\n"
        "domain corp.example\nsearch a.example b.example.\noptions ndots:5 rotate\noptions edns0\n"
    )
    assert read.nameservers == ("10.0.0.1",)
    assert read.nameserver_lines == ((3, "10.0.0.1"), (4, ""))
    assert read.search == ("a.example", "b.example")
    assert read.options == ("ndots:5", "rotate", "edns0")
    assert (read.ndots, parse_resolv_conf("").ndots) == (5, 1)


@pytest.mark.parametrize(
    ("text", "keep_others", "search", "lines"),
    [
        ("", True, (), ["nameserver 127.0.0.1", "options edns0"]),
        (
            "# by hand\nnameserver 10.0.0.1\nsearch a.example\noptions rotate timeout:1",
            True,
            ("staging.discovery",),
            [
                "nameserver 127.0.0.1",
                "search staging.discovery a.example",
                "# by hand",
                "nameserver 10.0.0.1",
                "options timeout:1",
                "options edns0",
            ],
        ),
        (
            "nameserver 10.0.0.1\nnameserver 127.0.0.1\noptions rotate\noptions edns0\n",
            True,
            (),
            ["nameserver 127.0.0.1", "nameserver 10.0.0.1", "options edns0"],
        ),
        (
            "nameserver 10.0.0.1\nsortlist 10.0.0.0\noptions rotate edns0\n",
            False,
            (),
            ["nameserver 127.0.0.1", "sortlist 10.0.0.0", "options rotate edns0"],
        ),
        (
            "# a\n\n nameserver 10.0.0.1\n",
            True,
            (),
            ["nameserver 127.0.0.1", "# a", "", " nameserver 10.0.0.1", "options edns0"],
        ),
    ],
)
def test_editing_keeps_unrelated_lines(
    text: str, keep_others: bool, search: tuple[str, ...], lines: list[str]
) -> None:
    edited = edit_resolv_conf(text, "127.0.0.1", keep_others=keep_others, search=search)
    assert edited.splitlines()[1:] == lines
    assert parse_resolv_conf(edited).nameservers[0] == "127.0.0.1"
