"""Log entries in a real journal, found with journalctl."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

JOURNALD = "/lib/systemd/systemd-journald"
SECONDS = 30.0

_STEPS = f"""
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal /run/log/journal || exit 9
{JOURNALD} 2>/dev/null &
until [ -S /run/systemd/journal/socket ]; do sleep 0.02; done
"$@" || exit 8
until journalctl -D /run/log/journal -t zkdns 2>/dev/null | grep -q last_entry_written; do sleep 0.02; done
journalctl -D /run/log/journal -o cat "SERVICE=web.staging"
journalctl -D /run/log/journal -o cat --output-fields=REASON "SERVICE=web.staging"
echo --
journalctl -D /run/log/journal -o cat -t zkdns -p warning
"""
_SCRIPT = """
import structlog
from zkdns.telemetry.log_setup import configure_logging
configure_logging("journald", "info", process="watcher")
log = structlog.get_logger("zkdns.test")
log.info("members_released", service="web.staging", reason="two\\nlines")
log.warning("members_held", service="db.prod")
log.error("last_entry_written")
"""


def namespaces_are_missing() -> bool:
    made = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/run"],
        capture_output=True,
        check=False,
    )
    return made.returncode != 0


@pytest.mark.skipif(
    not Path(JOURNALD).exists() or shutil.which("unshare") is None or namespaces_are_missing(),
    reason="needs journald and user namespaces",
)
def test_journalctl_finds_entries_by_field_and_priority() -> None:
    command = ["unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child", "bash", "-c", _STEPS]
    ended = subprocess.run(
        [*command, "bash", sys.executable, "-c", _SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        env={**os.environ, "SYSTEMD_COLORS": "0"},
    )
    assert ended.returncode == 0, ended.stderr
    by_field, _, by_priority = ended.stdout.partition("--\n")
    assert (
        by_field == "members_released process=watcher service=web.staging reason='two\\nlines'\ntwo\nlines\n"
    )
    assert by_priority.splitlines() == [
        "members_held process=watcher service=db.prod",
        "last_entry_written process=watcher",
    ]
