"""The units as they are installed, with the path of this source tree."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
UNITS = sorted(path for path in (ROOT / "systemd").iterdir() if path.suffix in {".service", ".socket"})
INSTALLED = "/usr/local/bin/zkdns"
"""The program's path in the units."""

_PATHS = " ".join(f'"{os.path.realpath(path)}"' for path in (sys.base_prefix, sys.prefix, ROOT))
# Makes Python and this source tree visible, which may be in directories that the units hide, such as /root.
_HERE = f"""\
[Service]
Environment="PYTHONPATH={ROOT}" PYTHONDONTWRITEBYTECODE=1
ProtectHome=tmpfs
BindReadOnlyPaths={_PATHS}
StandardOutput=append:/etc/zkdns/log
StandardError=append:/etc/zkdns/log
"""


def files(configuration: str) -> dict[str, str]:
    """The files of a machine with the units and this zkdns.toml, by path."""
    found = {"/etc/zkdns/zkdns.toml": configuration}
    for unit in UNITS:
        text = unit.read_text().replace(INSTALLED, f'"{sys.executable}" -m zkdns')
        found[f"/etc/systemd/system/{unit.name}"] = text
        if unit.suffix == ".service":
            found[f"/etc/systemd/system/{unit.name}.d/here.conf"] = _HERE
    return found
