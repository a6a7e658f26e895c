"""Bearer tokens and token files."""

import os
import re
from http import HTTPStatus
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from zkdns.admin.status import RequestError
from zkdns.admin.token import Tokens
from zkdns.admin.token_file import MIN_LENGTH, read_token
from zkdns.errors import BadValueError

TOKEN = "0123456789abcdef0123"  # noqa: S105 - of these tests


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(f"{TOKEN}\n")
    return path


def refusal(file: Path | None, authorization: str | None) -> tuple[HTTPStatus, str]:
    with pytest.raises(RequestError) as caught:
        Tokens().check(None if file is None else str(file), authorization)
    return caught.value.status, str(caught.value)


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer  {TOKEN} "])
def test_the_right_token_is_accepted(file: Path, header: str) -> None:
    Tokens().check(str(file), header)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}0",
        f"Bearer {TOKEN[:-1]}",
        "Bearer tökén",
        "Bearer \udcff",
    ],
)
def test_any_other_header_is_401(file: Path, header: str | None) -> None:
    status, sentence = refusal(file, header)
    assert status == HTTPStatus.UNAUTHORIZED
    assert "Authorization: Bearer TOKEN" in sentence
    assert TOKEN not in sentence


def test_without_a_token_file_requests_are_403_with_advice() -> None:
    status, sentence = refusal(None, f"Bearer {TOKEN}")
    assert status == HTTPStatus.FORBIDDEN
    assert "set admin.token to its path" in sentence


def test_a_new_token_takes_effect_at_once(file: Path) -> None:
    Tokens().check(str(file), f"Bearer {TOKEN}")
    file.write_text(TOKEN[::-1])
    assert refusal(file, f"Bearer {TOKEN}")[0] == HTTPStatus.UNAUTHORIZED
    Tokens().check(str(file), f"Bearer {TOKEN[::-1]}")


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o666])
def test_a_file_that_others_may_read_is_unusable(file: Path, mode: int) -> None:
    file.chmod(mode)
    status, sentence = refusal(file, f"Bearer {TOKEN}")
    assert status == HTTPStatus.FORBIDDEN
    assert sentence.endswith("is unusable; the log has the reason")
    with pytest.raises(
        BadValueError, match=rf"is accessible to every user of this machine \(mode {mode:04o}\)"
    ):
        read_token(str(file))
    assert TOKEN not in sentence


@pytest.mark.parametrize(
    "held", ["", "\n", "x" * (MIN_LENGTH - 1), "two words, each long", "x" * 5000, "é" * 20]
)
def test_a_file_without_a_token_is_unusable(file: Path, held: str) -> None:
    file.write_text(held)
    with pytest.raises(BadValueError, match=r"^holds no token; write 16 to 4096 letters and digits"):
        read_token(str(file))
    assert refusal(file, f"Bearer {held.strip()}")[0] == HTTPStatus.FORBIDDEN


def test_a_fifo_a_directory_and_a_missing_file_are_errors(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(BadValueError, match="is not a regular file; name a file that holds a token"):
            read_token(str(path))
    with pytest.raises(BadValueError, match=r"cannot be read \(no such file or directory\)"):
        read_token(str(tmp_path / "missing"))


def test_an_unusable_file_is_logged_once_for_each_reason(file: Path) -> None:
    tokens = Tokens()
    with capture_logs() as logged:
        for mode in (0o604, 0o604, 0o600, 0o604, 0o666):
            file.chmod(mode)
            try:
                tokens.check(str(file), f"Bearer {TOKEN}")
            except RequestError as refused:
                assert str(file) not in str(refused)  # noqa: PT017 - one of them does not raise
    modes = [re.findall(r"mode (\d+)", entry["reason"]) for entry in logged]
    assert [(entry["event"], entry["path"]) for entry in logged] == [("admin_token_refused", str(file))] * 3
    assert modes == [["0604"], ["0604"], ["0666"]]
