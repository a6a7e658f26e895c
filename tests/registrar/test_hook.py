"""Hook commands in a real shell: standard input, environment variables, and their limits."""

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.waiting import eventually
from zkdns.registrar.hook import ADDED, ENDPOINTS, REMOVED, Hook

MANY = tuple(f"10.{number // 250}.{number % 250}.1:8080" for number in range(10_000))
# Prints for each variable whether it is set, and its length; then the number of lines on standard input.
REPORT = (
    f'echo "${{{ENDPOINTS}+set}} ${{#{ENDPOINTS}}} ${{{ADDED}+set}} ${{#{ADDED}}}'
    f' ${{{REMOVED}+set}} ${{#{REMOVED}}}" $(wc -l) >> '
)

Start = Callable[[str], Hook]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start hooks, and close them after the test."""
    hooks: list[Hook] = []

    def make(command: str) -> Hook:
        hooks.append(Hook(command))
        return hooks[-1]

    yield make
    for hook in hooks:
        hook.close()


def read_lines(file: Path, count: int) -> list[str]:
    """Wait until a file has at least `count` lines, and return them."""
    eventually(lambda: len(file.read_text().splitlines()) >= count)
    return file.read_text().splitlines()


def test_the_command_reads_one_endpoint_on_each_line(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "output"
    start(f"cat > {file}; echo end >> {file}").schedule(("10.0.0.1:80", "[::1]:80", "web.example:80"))
    assert read_lines(file, 4) == ["10.0.0.1:80", "[::1]:80", "web.example:80", "end"]


def test_an_empty_set_has_no_lines_and_empty_variables(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "output"
    start(f"{REPORT} {file}").schedule(())
    assert read_lines(file, 1) == ["set 0 set 0 set 0 0"]


def test_endpoints_that_exceed_a_variable_are_all_on_standard_input(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "output"
    hook = start(f"{REPORT} {file}")
    for count, endpoints in enumerate((MANY, MANY[1:], MANY[:2], MANY), 1):
        hook.schedule(endpoints)
        read_lines(file, count)
    few = len(" ".join(MANY[:2]))
    assert read_lines(file, 4) == [
        " 0  0 set 0 10000",
        f" 0 set 0 set {len(MANY[0])} 9999",
        f"set {few} set {len(MANY[0])}  0 2",
        " 0  0 set 0 10000",
    ]
    [warning] = eventually(lambda: caplog.records)
    assert warning.getMessage().startswith("zkdns: watch_command_variables_unset ")
    assert f"variables='{ADDED}, {ENDPOINTS}'" in warning.getMessage()


def test_an_inherited_variable_is_unset_if_the_endpoints_do_not_fit(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINTS, "10.9.9.9:1")
    file = tmp_path / "output"
    start(f"{REPORT} {file}").schedule(MANY)
    assert read_lines(file, 1) == [" 0  0 set 0 10000"]


def test_the_longest_string_that_the_kernel_accepts_is_set(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "output"
    longest = 32 * resource.getpagesize() - len(f"{ENDPOINTS}=\0")  # MAX_ARG_STRLEN
    hook = start(f"{REPORT} {file}")
    hook.schedule(("x" * longest,))
    read_lines(file, 1)
    hook.schedule(("x" * (longest + 1),))
    assert [line.split(" ")[:3] for line in read_lines(file, 2)] == [
        ["set", str(longest), "set"],
        ["", "0", "set"],  # ZKDNS_ADDED has a shorter name, so it still fits
    ]


def test_no_variable_is_set_if_all_together_exceed_the_limit(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "output"
    fill_environment(monkeypatch, free=120_000)
    start(f"{REPORT} {file}").schedule(MANY[:5000])
    assert read_lines(file, 1) == [" 0  0  0 5000"]
    [warning] = eventually(lambda: caplog.records)
    assert f"variables='{ADDED}, {ENDPOINTS}, {REMOVED}'" in warning.getMessage()


def fill_environment(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Fill the environment up to `free` bytes below the kernel's limit, which is a quarter of the stack."""
    stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
    max_room = 6 * 2**20  # 3/4 of the kernel's default stack limit
    room = max_room if stack == resource.RLIM_INFINITY else min(stack // 4, max_room)
    pointer = 8
    room -= free + sum(len(f"{name}={value}\0") + pointer for name, value in os.environ.items())
    while room > 100:
        name = f"FILLED_{room}"
        value = "x" * (min(room, 100_000) - len(f"{name}=\0") - pointer)
        monkeypatch.setenv(name, value)
        room -= len(f"{name}={value}\0") + pointer


@pytest.mark.parametrize("script", ["true", "head -n 1", "exec <&-; true"])
def test_a_command_that_does_not_read_its_input_does_not_fail(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, script: str
) -> None:
    file = tmp_path / "output"
    hook = start(f"{script} > /dev/null && echo done >> {file}")
    hook.schedule(MANY[:5000])
    read_lines(file, 1)
    hook.schedule(MANY[:4999])
    assert read_lines(file, 2) == ["done", "done"]
    assert caplog.records == []


def test_close_terminates_a_command_that_reads_nothing(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "output"
    hook = start(f"echo $$ >> {file}; exec sleep 60")
    hook.schedule(MANY)
    read_lines(file, 1)
    hook.close()
    pid = file.read_text().strip()
    assert not Path(f"/proc/{pid}").exists()


def test_a_command_that_cannot_start_is_logged_and_retried_at_the_next_change(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "output"
    hook = start(f"cat >> {file}")
    fill_environment(monkeypatch, free=-200_000)
    hook.schedule(("10.0.0.1:80",))
    eventually(lambda: caplog.records)
    assert caplog.records[0].getMessage().startswith("zkdns: watch_command_start_failed ")
    assert "reason='argument list too long'" in caplog.records[0].getMessage()
    monkeypatch.undo()
    hook.schedule(("10.0.0.2:80",))
    assert read_lines(file, 1) == ["10.0.0.2:80"]
