"""zkdns as the first name server in resolv.conf, without forwarding: other names come from the second one.

`test_only_nameserver.py` tests zkdns with forwarding as the only name server. The test runs in separate
namespaces, with only loopback and with its own resolv.conf.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process_guard import running_guarded

pytestmark = pytest.mark.processes

_SCRIPT = """
set -eu
ip link set lo up
mount --bind "$1/resolv.conf" /etc/resolv.conf
mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf
export ZKDNS_ADMIN=none ZKDNS_UPSTREAM=none
"$2" -m zkdns serve --static "$1/zkdns.toml" --listen 127.0.0.1:53 &
first=$!
"$2" -m zkdns serve --static "$1/second.toml" --zone example --listen 127.0.0.2:53 &
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


def _can_unshare() -> bool:
    command = ["unshare", "--net", "--mount", "ip", "link", "set", "lo", "up"]
    if not all(map(shutil.which, ("unshare", "ip", "getent", "mount"))):
        return False
    return subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0


def test_glibc_gets_other_names_from_the_second_server(tmp_path: Path) -> None:
    if not _can_unshare():
        pytest.skip("needs root, unshare, ip, mount and getent")
    (tmp_path / "resolv.conf").write_text(
        "search staging.discovery\nnameserver 127.0.0.1\nnameserver 127.0.0.2\n"
    )
    (tmp_path / "nsswitch.conf").write_text("hosts: dns\n")
    (tmp_path / "zkdns.toml").write_text(
        '[services."web.staging"]\nmembers = ["192.0.2.1:80", "192.0.2.2:80"]\n'
    )
    (tmp_path / "second.toml").write_text('[services."www.all"]\nmembers = ["198.51.100.1:80"]\n')
    script = ["unshare", "--net", "--mount", "sh", "-c", _SCRIPT, "sh", str(tmp_path), sys.executable]
    out, log = tmp_path / "out", tmp_path / "log"
    with (
        out.open("wb") as stdout,
        log.open("wb") as stderr,
        running_guarded(script, stdout=stdout, stderr=stderr) as process,
    ):
        assert process.wait(120) == 0, log.read_text()
    printed = out.read_text()
    found = {line.split()[0] for line in printed.splitlines() if "STREAM" in line}
    assert found == {"192.0.2.1", "192.0.2.2", "198.51.100.1"}
    assert "found by search domain" in printed
    assert "none: 2" in printed
