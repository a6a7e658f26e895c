"""nsswitch.conf and the settings of systemd-resolved."""

from __future__ import annotations

from pathlib import Path

from tests.host.trees import make_tree
from zkdns.host.resolver_config import parse_hosts_line, read_resolved_settings


def test_the_hosts_line_with_its_actions() -> None:
    sources = parse_hosts_line(
        "passwd: files\n"
        "hosts: files mdns4_minimal [NOTFOUND=return] resolve [!UNAVAIL=return] dns # a comment\n"
    )
    assert [source.name for source in sources] == ["files", "mdns4_minimal", "resolve", "dns"]
    assert sources[1].stops_on == {"notfound"}
    assert sources[2].stops_on == {"notfound", "tryagain", "success"}
    assert [source.name for source in parse_hosts_line("passwd: files\n")] == ["files", "dns"]


def test_settings_of_resolved_come_from_the_first_main_file_and_all_drop_ins(tmp_path: Path) -> None:
    main = "[Other]\nDNS=10.0.0.9\n[Resolve]\n#DNS=10.0.0.8\nDNS = 10.0.0.1 10.0.0.2\n"
    files = {
        "/etc/systemd/resolved.conf": main,
        "/usr/lib/systemd/resolved.conf": "[Resolve]\nDNS=10.0.0.7\n",
        "/etc/systemd/resolved.conf.d/a.conf": "[Resolve]\nDNS=\nDNS=10.0.0.3\n",
        "/run/systemd/resolved.conf.d/a.conf": "[Resolve]\nDNS=10.0.0.6\n",
        "/etc/systemd/resolved.conf.d/zkdns.conf": "[Resolve]\nDNS=127.0.0.1\n",
        "/run/systemd/resolved.conf.d/zz.conf": "[Resolve]\nDNS=10.0.0.4 10.0.0.3\nDNSOverTLS=yes\n",
    }
    settings = read_resolved_settings(make_tree(tmp_path, files))
    assert settings.servers == ("10.0.0.3", "10.0.0.4")
    assert settings.over_tls == settings.later == "/run/systemd/resolved.conf.d/zz.conf"
