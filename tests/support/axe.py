"""axe-core, which finds accessibility problems in a page: an npm package, installed into `.tests/`."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.support.chromium import Tab

VERSION = "4.10.3"
_PLACE = Path(__file__).parents[2] / ".tests" / "axe"
_SECONDS = 60.0
_OPTIONS = {
    "resultTypes": ["violations", "incomplete"],
    "rules": {"target-size": {"enabled": True}},  # also the newest rules, which are off by default
}


@functools.cache
def axe_script() -> str | None:
    """Return the script of axe-core. None: it is not installed, and npm cannot install it."""
    package = _PLACE / VERSION / "node_modules" / "axe-core"
    script = package / "axe.min.js"
    npm = shutil.which("npm")
    if not script.exists() and npm is not None:
        options = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--loglevel=error")
        place = _PLACE / VERSION
        place.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--prefix", str(place), *options, f"axe-core@{VERSION}"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
        except (subprocess.SubprocessError, OSError):
            return None
    return script.read_text(encoding="utf-8") if script.exists() else None


def findings(tab: Tab, script: str, *rules: str) -> list[str]:
    """Run these rules on a page, by default all.

    Returns the broken rules, with their elements and the problem of each.
    """
    if not tab.evaluate("'axe' in window"):
        tab.evaluate(f"{script}; undefined")
    only = {"runOnly": {"type": "rule", "values": rules}} if rules else {}
    result: dict[str, Any] = tab.evaluate(f"axe.run(document, {json.dumps(_OPTIONS | only)})")
    assert result["testEngine"]["version"] == VERSION
    return [
        f"{rule['id']} ({rule['impact']}): {json.dumps(node['target'])} {node.get('failureSummary', '')}"
        for rule in result["violations"]
        for node in rule["nodes"]
    ]
