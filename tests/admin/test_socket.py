"""The HTTP API at a Unix socket: the path, its mode and its rights, and takeover of dead sockets."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.admin.helpers import FakeBackend, serving, serving_at
from zkdns.admin.api_types import Flushed, LossesAccepted, Reloaded
from zkdns.admin.client import ApiClient, RefusedError, ServerAddress
from zkdns.admin.server import AdminServer
from zkdns.errors import ListenError


@pytest.fixture
def path(short_path: Path) -> Path:
    return short_path / "run" / "api"


def test_changes_need_no_token_at_the_socket(path: Path) -> None:
    backend = FakeBackend()
    with serving_at(path, backend) as client:
        assert client.post("accept", LossesAccepted, service="web.staging") == LossesAccepted(())
        assert client.post("flush", Flushed) == Flushed(1, 1)
        assert client.post("reload", Reloaded, all="1") == Reloaded((), (), 0.1)
    assert backend.done == [("accept", "web.staging"), ("flush", None), ("reload", True)]


def test_changes_need_the_token_over_tcp(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text("a-token-of-16-characters")
    backend = FakeBackend(token_file=str(file))
    with serving(backend) as at:
        address = ServerAddress(at=at)
        with pytest.raises(RefusedError, match="missing bearer token") as caught:
            ApiClient(address).post("flush", Flushed)
        assert caught.value.status == 401
        assert ApiClient(address, "a-token-of-16-characters").post("flush", Flushed) == Flushed(1, 1)
    assert backend.done == [("flush", None)]


def test_the_socket_has_mode_0600_and_is_removed_at_the_end(path: Path) -> None:
    before = os.umask(0o022)
    try:
        with serving_at(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert not path.exists()


def test_the_socket_of_a_dead_server_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serving_at(path) as client:
        assert client.status().version == "1"


def test_the_socket_of_a_running_server_is_not_replaced(path: Path) -> None:
    with serving_at(path) as client:
        with pytest.raises(ListenError, match=r"^another server listens there$"):
            AdminServer(path)
        assert client.status().version == "1"


def test_a_server_with_a_full_backlog_is_running(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
        busy.bind(str(path))
        busy.listen(0)
        first.connect(str(path))
        with pytest.raises(ListenError, match=r"^another server listens there$"):
            AdminServer(path)


def test_closing_does_not_remove_the_socket_of_a_later_server(path: Path) -> None:
    first = AdminServer(path)
    path.unlink()
    second = AdminServer(path)
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_text("precious"), "the path exists and is not a socket"),
        (lambda path: path.mkdir(), "the path exists and is not a socket"),
        (lambda path: path.parent.rmdir() or path.parent.write_text(""), "file exists"),
    ],
)
def test_a_failure_to_listen_has_a_reason(path: Path, make: Callable[[Path], object], reason: str) -> None:
    path.parent.mkdir()
    make(path)
    with pytest.raises(ListenError, match=f"^{reason}$"):
        AdminServer(path)
    assert not path.is_file() or path.read_text() == "precious"


def test_a_path_that_is_too_long_for_a_socket_has_a_reason(short_path: Path) -> None:
    with pytest.raises(ListenError, match=r"^AF_UNIX path too long$"):
        AdminServer(short_path / ("x" * 120))
