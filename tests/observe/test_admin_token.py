"""Who knows the token, and which files hold one."""

import os
from http import HTTPStatus
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from zkdns.errors import BadValueError
from zkdns.observe.admin_token import LEAST, Tokens, read_token
from zkdns.observe.status import RequestError

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
def test_who_sends_the_token_may(file: Path, header: str) -> None:
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
def test_who_sends_another_one_may_not(file: Path, header: str | None) -> None:
    status, sentence = refusal(file, header)
    assert status == HTTPStatus.UNAUTHORIZED
    assert "Authorization: Bearer TOKEN" in sentence
    assert TOKEN not in sentence


def test_without_a_file_nobody_may_and_the_sentence_says_what_to_do() -> None:
    status, sentence = refusal(None, f"Bearer {TOKEN}")
    assert status == HTTPStatus.FORBIDDEN
    assert "name it with admin_token" in sentence


def test_another_token_is_in_force_as_soon_as_it_is_written(file: Path) -> None:
    Tokens().check(str(file), f"Bearer {TOKEN}")
    file.write_text(TOKEN[::-1])
    assert refusal(file, f"Bearer {TOKEN}")[0] == HTTPStatus.UNAUTHORIZED
    Tokens().check(str(file), f"Bearer {TOKEN[::-1]}")


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o666])
def test_a_file_that_is_open_to_others_lets_nobody(file: Path, mode: int) -> None:
    file.chmod(mode)
    status, sentence = refusal(file, f"Bearer {TOKEN}")
    assert status == HTTPStatus.FORBIDDEN
    assert sentence.endswith("holds no token that can be used; the log says why")
    with pytest.raises(
        BadValueError, match=rf"is accessible to every user of this machine \(mode {mode:04o}\)"
    ):
        read_token(str(file))
    assert TOKEN not in sentence


@pytest.mark.parametrize("held", ["", "\n", "x" * (LEAST - 1), "two words, each long", "x" * 5000, "é" * 20])
def test_what_is_no_token_lets_nobody(file: Path, held: str) -> None:
    file.write_text(held)
    with pytest.raises(BadValueError, match=r"^holds no token; write 16 to 4096 letters and digits"):
        read_token(str(file))
    assert refusal(file, f"Bearer {held.strip()}")[0] == HTTPStatus.FORBIDDEN


def test_what_is_no_file_is_told_and_waited_for_by_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(BadValueError, match="is no file; name one that holds a token"):
            read_token(str(path))
    with pytest.raises(BadValueError, match=r"cannot be read \(No such file or directory\)"):
        read_token(str(tmp_path / "missing"))


def test_why_nobody_may_is_told_in_the_log_alone_and_once_for_each_reason(file: Path) -> None:
    tokens = Tokens()
    with capture_logs() as told:
        for mode in (0o604, 0o604, 0o600, 0o604, 0o666):
            file.chmod(mode)
            try:
                tokens.check(str(file), f"Bearer {TOKEN}")
            except RequestError as refused:
                assert str(file) not in str(refused)  # noqa: PT017 - one of them does not raise
    assert [(one["admin_token"], one["reason"].partition("(")[2][:9]) for one in told] == [
        (str(file), f"mode {mode}") for mode in ("0604", "0604", "0666")
    ]
