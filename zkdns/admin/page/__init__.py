"""The status page: one document with inline style and script, which requests only this server's API.

The policy allows exactly that style and script by their hashes (Content Security Policy Level 3, §8.4), so
that names of services and znodes cannot inject others. Trusted Types forbid the script to turn text into
markup.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from importlib import resources

import msgspec
from aiohttp import web

from zkdns.admin.compression import accepts_gzip, compressed

# In order of use: later files depend on earlier ones.
_STYLES = ("style.css", "charts.css", "parts.css")
_SCRIPTS = ("dom.js", "charts.js", "services.js", "changes.js", "opened.js", "script.js")
_STYLE_PLACE, _SCRIPT_PLACE = "<style></style>", '<script type="module"></script>'


class Page(msgspec.Struct, frozen=True):
    """The document and its content security policy."""

    html: str
    gzipped: bytes
    """The document, compressed."""
    policy: str
    """The value of Content-Security-Policy."""

    def response(self, request: web.BaseRequest) -> web.Response:
        """Make the response for a client, compressed if it accepts that."""
        headers = {"Content-Security-Policy": self.policy}
        if not accepts_gzip(request):
            return web.Response(text=self.html, content_type="text/html", headers=headers)
        headers |= {"Content-Type": "text/html; charset=utf-8", "Content-Encoding": "gzip"}
        return web.Response(body=self.gzipped, headers=headers)


@functools.cache
def page() -> Page:
    """Assemble the page from the files in this package. Reads them on the first call."""
    style, script = _joined(_STYLES), _joined(_SCRIPTS)
    html = _read("index.html")
    html = html.replace(_STYLE_PLACE, f"<style>{style}</style>")
    html = html.replace(_SCRIPT_PLACE, f'<script type="module">{script}</script>')
    policy = (
        "default-src 'none'",
        f"style-src {_hash(style)}",
        f"script-src {_hash(script)}",
        "connect-src 'self'",
        "img-src data:",  # the icon
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return Page(html, compressed(html.encode()), "; ".join(policy))


def _joined(names: Sequence[str]) -> str:
    return "\n" + "\n".join(map(_read, names))


def _read(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
