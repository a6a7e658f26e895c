"""resolv.conf and nsswitch.conf are read as glibc reads them, and edited no more than they must be."""

from __future__ import annotations

import pytest

from zkdns.machine.stub import edit_resolv_conf, read_hosts_line, read_resolv_conf


def test_the_last_search_counts_and_options_add_up() -> None:
    read = read_resolv_conf(
        "# nameserver 9.9.9.9\n nameserver 8.8.8.8\nnameserver 10.0.0.1 # first\nnameserver\n"
        "domain corp.example\nsearch a.example b.example.\noptions ndots:5 rotate\noptions edns0\n"
    )
    assert read.nameservers == ("10.0.0.1",)
    assert read.search == ("a.example", "b.example")
    assert read.options == ("ndots:5", "rotate", "edns0")
    assert (read.ndots, read_resolv_conf("").ndots) == (5, 1)


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
    ],
)
def test_editing_changes_what_it_concerns(
    text: str, keep_others: bool, search: tuple[str, ...], lines: list[str]
) -> None:
    edited = edit_resolv_conf(text, "127.0.0.1", keep_others=keep_others, search=search)
    assert edited.splitlines()[1:] == lines
    assert read_resolv_conf(edited).nameservers[0] == "127.0.0.1"


def test_sources_of_host_names_know_what_they_stop_on() -> None:
    sources = read_hosts_line(
        "passwd: files\n"
        "hosts: files mdns4_minimal [NOTFOUND=return] resolve [!UNAVAIL=return] dns # a comment\n"
    )
    assert [source.name for source in sources] == ["files", "mdns4_minimal", "resolve", "dns"]
    assert sources[1].stops_on == {"notfound"}
    assert sources[2].stops_on == {"notfound", "tryagain", "success"}
    assert [source.name for source in read_hosts_line("passwd: files\n")] == ["files", "dns"]
