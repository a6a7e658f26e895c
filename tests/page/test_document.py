"""The status page as it leaves the server: one document, and what browsers are told to keep to."""

import base64
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.observe.admin_helpers import ask, serving
from zkdns.observe import page as page_room
from zkdns.observe.page import page

SOURCES = sorted(
    path for path in Path(page_room.__file__).parent.iterdir() if path.suffix in {".html", ".css", ".js"}
)
WAYS_TO_MAKE_MARKUP = (
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|srcdoc"
)


def within(tag: str, html: str) -> str:
    """What stands in the only element of that name."""
    (found,) = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", html, re.DOTALL)
    return str(found)


def test_the_page_is_one_document_whose_policy_names_its_style_and_its_script() -> None:
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


def test_nothing_in_it_leads_elsewhere_and_without_script_it_names_the_api() -> None:
    html = page().html
    assert set(re.findall(r"https?://[^\s\"'/]+", html)) == {"http://www.w3.org"}  # SVG's name, no address
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*\s(?:src|href)=\"(?!data:)", html)
    assert not re.search(r"\son[a-z]+=|\sstyle=", html.replace(within("script", html), ""))
    assert "/api/status" in within("noscript", html)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_its_files_make_no_markup_of_text_and_can_be_read_at_one_go(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(WAYS_TO_MAKE_MARKUP, text)
    assert text.count("\n") <= 400
    assert max(map(len, text.splitlines())) <= 400 if path.suffix == ".html" else 120


def test_its_script_is_one_that_javascript_understands(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no Node (Debian and Ubuntu: apt install nodejs)")
    script = tmp_path / "script.mjs"
    script.write_text(within("script", page().html))
    subprocess.run([node, "--check", str(script)], check=True)
