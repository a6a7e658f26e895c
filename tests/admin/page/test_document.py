"""The document of the status page and its content security policy."""

import base64
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.admin.helpers import ask, serving
from zkdns.admin import page as page_room
from zkdns.admin.page import page

SOURCES = sorted(
    path for path in Path(page_room.__file__).parent.iterdir() if path.suffix in {".html", ".css", ".js"}
)
MARKUP_FROM_TEXT = (
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|srcdoc"
)


def within(tag: str, html: str) -> str:
    """Return the content of the only element with this tag."""
    (found,) = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", html, re.DOTALL)
    return str(found)


def test_the_policy_allows_exactly_the_inline_style_and_script() -> None:
    with serving() as at:
        answer = ask(at, "/")
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        policy = answer.headers["Content-Security-Policy"]
        for tag in ("style", "script"):
            digest = hashlib.sha256(within(tag, answer.text).encode()).digest()
            assert f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}';" in policy
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert (answer.headers["Cache-Control"], answer.headers["X-Frame-Options"]) == ("no-store", "DENY")
        head = ask(at, "/", "HEAD")
        assert (head.status, head.text) == (200, "")
        assert "default-src 'self'" in ask(at, "/api/status").headers["Content-Security-Policy"]
        assert ask(at, "/", "POST").status == 405
        assert ask(at, "/", Host="evil.example.com").status == 421


def test_it_references_no_other_server_and_lists_the_api_for_noscript() -> None:
    html = page().html
    assert set(re.findall(r"https?://[^\s\"'/]+", html)) == {
        "http://www.w3.org"
    }  # the name of SVG's namespace
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*\s(?:src|href)=\"(?!data:)", html)
    assert not re.search(r"\son[a-z]+=|\sstyle=", html.replace(within("script", html), ""))
    assert "/api/status" in within("noscript", html)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_its_files_turn_no_text_into_markup_and_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(MARKUP_FROM_TEXT, text)
    assert text.count("\n") <= 400
    assert max(map(len, text.splitlines())) <= 400 if path.suffix == ".html" else 120


def test_its_script_has_valid_syntax(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no Node (Debian and Ubuntu: apt install nodejs)")
    script = tmp_path / "script.mjs"
    script.write_text(within("script", page().html))
    subprocess.run([node, "--check", str(script)], check=True)
