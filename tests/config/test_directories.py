"""Defaults from the directories and sockets that systemd passes (systemd.exec(5))."""

from pathlib import Path

import pytest

from zkdns.address import HostPort
from zkdns.config import load_config
from zkdns.errors import ConfigError
from zkdns.serverset.auth import load_access


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The variables of a systemd service with empty directories."""
    names = ("CONFIGURATION", "STATE", "RUNTIME", "CREDENTIALS")
    for name in names:
        (tmp_path / name).mkdir()
    return {f"{name}_DIRECTORY": str(tmp_path / name) for name in names}


def test_directories_of_the_service_are_the_defaults_of_paths(
    environment: dict[str, str], tmp_path: Path
) -> None:
    config = load_config(flags={}, environment=environment, file=None)
    assert config.snapshot.path == str(tmp_path / "STATE/table")
    assert config.admin.socket == str(tmp_path / "RUNTIME/api")
    assert config.zookeeper.credentials is None
    assert config.ttl == 5


def test_files_in_the_directories_of_the_service_are_read(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "CONFIGURATION/zkdns.toml").write_text("ttl = 7\n")
    secrets = tmp_path / "CREDENTIALS/zookeeper.toml"
    secrets.write_text('digest = "user:password"\n')
    secrets.chmod(0o440)
    config = load_config(flags={}, environment=environment, file=None, check_access=load_access)
    assert config.ttl == 7
    assert config.zookeeper.credentials == str(secrets)
    assert config.admin.token is None
    token = tmp_path / "CREDENTIALS/admin_token"
    token.write_text("0123456789abcdef\n")
    assert load_config(flags={}, environment=environment, file=None).admin.token == str(token)
    named = {**environment, "ZKDNS_ADMIN_TOKEN": "/etc/token"}
    assert load_config(flags={}, environment=named, file=None).admin.token == "/etc/token"  # noqa: S105 - a path
    secrets.write_text("digest = 1\n")
    with pytest.raises(ConfigError, match=r"CREDENTIALS/zookeeper\.toml: digest: is not a secret"):
        load_config(flags={}, environment=environment, file=None, check_access=load_access)


def test_an_unreadable_credentials_file_is_an_error(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "CREDENTIALS/zookeeper.toml").symlink_to("zookeeper.toml")
    with pytest.raises(ConfigError, match=r"CREDENTIALS/zookeeper\.toml: cannot be read"):
        load_config(flags={}, environment=environment, file=None, check_access=load_access)


def test_explicit_settings_override_the_directories(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "CONFIGURATION/zkdns.toml").write_text(
        'snapshot.path = "/var/t"\nzookeeper.credentials = "/etc/z"\n'
    )
    (tmp_path / "CREDENTIALS/zookeeper.toml").write_text("")
    config = load_config(flags={}, environment=environment, file=None)
    assert (config.snapshot.path, config.zookeeper.credentials) == ("/var/t", "/etc/z")
    other = tmp_path / "other.toml"
    other.write_text("ttl = 9\n")
    assert load_config(flags={}, environment=environment, file=str(other)).ttl == 9
    assert load_config(flags={}, environment={**environment, "ZKDNS_CONFIG": str(other)}, file=None).ttl == 9


def test_the_first_of_several_directories_is_used(environment: dict[str, str], tmp_path: Path) -> None:
    several = {name: f"{path}:/nowhere" for name, path in environment.items()}
    assert load_config(flags={}, environment=several, file=None).snapshot.path == str(
        tmp_path / "STATE/table"
    )


def test_without_zookeeper_there_is_no_default_snapshot(environment: dict[str, str]) -> None:
    assert load_config(flags={"demo": True}, environment=environment, file=None).snapshot.path is None


def test_passed_sockets_are_the_default_of_listen() -> None:
    passed = (HostPort("127.0.0.1", 53), HostPort("::1", 53))
    assert load_config(flags={}, environment={}, file=None, listen=passed).listen == passed
    named = load_config(flags={"listen": ("10.0.0.5",)}, environment={}, file=None, listen=passed)
    assert named.listen == (HostPort("10.0.0.5", 53),)
