"""The units as people install them, with the program where it is here."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
UNITS = ROOT / "systemd"
INSTALLED = "/usr/local/bin/zkdns"
"""The program's path in the units."""

_PLACES = " ".join(f'"{os.path.realpath(place)}"' for place in (sys.base_prefix, sys.prefix, ROOT))
# Only paths are others: Python and this tree may lie where the units hide everything, as in /root.
_HERE = f"""\
[Service]
Environment="PYTHONPATH={ROOT}" PYTHONDONTWRITEBYTECODE=1
ProtectHome=tmpfs
BindReadOnlyPaths={_PLACES}
StandardOutput=append:/etc/zkdns/log
StandardError=append:/etc/zkdns/log
"""


def files(configuration: str) -> dict[str, str]:
    """The files of a machine where they are installed, with this zkdns.toml."""
    found = {"/etc/zkdns/zkdns.toml": configuration}
    for unit in UNITS.iterdir():
        text = unit.read_text().replace(INSTALLED, f'"{sys.executable}" -m zkdns')
        found[f"/etc/systemd/system/{unit.name}"] = text
        if unit.suffix == ".service":
            found[f"/etc/systemd/system/{unit.name}.d/here.conf"] = _HERE
    return found
