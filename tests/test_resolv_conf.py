"""resolv.conf is parsed as glibc does, and edited only where necessary."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    assert edited.split("\n")[1:-1] == lines
    assert parse_resolv_conf(edited).nameservers[0] == "127.0.0.1"


# Characters that Python or Unicode regards as line ends or spaces, but glibc does not.
ODD = "\v\f\x1c\x1d\x1e\x85\xa0\u2028\u2029\u3000\udcff\r"


@given(
    st.lists(
        st.sampled_from(("# a", "nameserver 10.0.0.1", "options rotate", "options  rotate\ttimeout:1", ""))
        | st.text(alphabet=f"#;abn {ODD}\t", max_size=12),
        max_size=6,
    ),
    st.sampled_from(("", "\n")),
)
def test_editing_keeps_each_byte_of_unrelated_lines(parts: list[str], end: str) -> None:
    text = "\n".join(parts) + end
    edited = (
        edit_resolv_conf(text, "127.0.0.1", keep_others=True).encode(errors="surrogateescape").split(b"\n")
    )
    related = ("nameserver", "options", "search", "domain")
    for line in text.removesuffix("\n").split("\n") if text else ():
        if not line.startswith(related):
            assert line.encode(errors="surrogateescape") in edited
    # The comment and the server of zkdns, perhaps `options edns0`, and at most the old lines.
    assert len(edited) <= 4 + text.removesuffix("\n").count("\n") + bool(text)


@pytest.mark.parametrize("char", ODD[:-1])
def test_only_line_feeds_end_lines_and_only_spaces_and_tabs_separate_words(char: str) -> None:
    text = f"# by hand{char}nameserver 10.6.6.6{char}\nnameserver{char}10.7.7.7\nnameserver 10.0.0.1\n"
    read = parse_resolv_conf(text)
    assert read.nameserver_lines == ((3, "10.0.0.1"),)
    assert text.split("\n", maxsplit=1)[0] in edit_resolv_conf(text, "127.0.0.1", keep_others=False).split(
        "\n"
    )


def test_only_the_word_rotate_is_removed_from_options() -> None:
    edited = edit_resolv_conf(
        "nameserver 10.0.0.1\noptions\trotate  ndots:2   rotate\tedns0  # x\n", "127.0.0.1", keep_others=True
    )
    assert "options  ndots:2\tedns0  # x\n" in edited
