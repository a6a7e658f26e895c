"""A machine whose resolv.conf points here first: glibc finds services, and the rest at the next server.

So it is where nothing is forwarded; `test_whole_world.py` has the machine that asks nobody but us.

In namespaces of the test's own: a network with nothing but loopback, and a mount of another resolv.conf.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process_guard import guarded

pytestmark = [pytest.mark.processes, pytest.mark.punctual]

_SCRIPT = """
set -eu
ip link set lo up
mount --bind "$1/resolv.conf" /etc/resolv.conf
mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf
export ZKDNS_ADMIN=none ZKDNS_UPSTREAM=none
"$2" -m zkdns serve --static "$1/here.toml" --listen 127.0.0.1:53 &
first=$!
"$2" -m zkdns serve --static "$1/elsewhere.toml" --zone example --listen 127.0.0.2:53 &
second=$!
for try in $(seq 300); do
    if getent ahosts web.staging.discovery >"$1/own" && getent ahosts www.all.example >"$1/other"; then
        break
    fi
    sleep 0.1
done
getent ahosts web.staging.discovery
getent ahosts www.all.example
getent ahosts web && echo found by search domain
getent ahosts none.staging.discovery || echo none: $?
kill "$first" "$second"
wait "$first"
wait "$second"
"""


def _unshare_works() -> bool:
    command = ["unshare", "--net", "--mount", "ip", "link", "set", "lo", "up"]
    if not all(map(shutil.which, ("unshare", "ip", "getent", "mount"))):
        return False
    return subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0


def test_glibc_asks_us_first_and_the_next_server_for_everything_else(tmp_path: Path) -> None:
    if not _unshare_works():
        pytest.skip("making a network namespace needs root, and the programs unshare, ip and getent")
    (tmp_path / "resolv.conf").write_text(
        "search staging.discovery\nnameserver 127.0.0.1\nnameserver 127.0.0.2\n"
    )
    (tmp_path / "nsswitch.conf").write_text("hosts: dns\n")
    (tmp_path / "here.toml").write_text(
        '[services."web.staging"]\nmembers = ["192.0.2.1:80", "192.0.2.2:80"]\n'
    )
    (tmp_path / "elsewhere.toml").write_text('[services."www.all"]\nmembers = ["198.51.100.1:80"]\n')
    script = ["unshare", "--net", "--mount", "sh", "-c", _SCRIPT, "sh", str(tmp_path), sys.executable]
    out, log = tmp_path / "out", tmp_path / "log"
    with out.open("wb") as stdout, log.open("wb") as stderr:
        process = subprocess.Popen(
            guarded(script), stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, start_new_session=True
        )
    try:
        assert process.wait(120) == 0, log.read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):  # what the script left behind, and the guard
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
    printed = out.read_text()
    found = {line.split()[0] for line in printed.splitlines() if "STREAM" in line}
    assert found == {"192.0.2.1", "192.0.2.2", "198.51.100.1"}
    assert "found by search domain" in printed
    assert "none: 2" in printed
