"""The command of a change, run by a real shell: what it is told, also where that is much."""

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.waiting import eventually
from zkdns.registrar.hook import ADDED, ENDPOINTS, REMOVED, Hook

MANY = tuple(f"10.{number // 250}.{number % 250}.1:8080" for number in range(10_000))
# Says whether each variable is set, and how long it is; then how many lines there were on standard input.
TELL = (
    f'echo "${{{ENDPOINTS}+set}} ${{#{ENDPOINTS}}} ${{{ADDED}+set}} ${{#{ADDED}}}'
    f' ${{{REMOVED}+set}} ${{#{REMOVED}}}" $(wc -l) >> '
)

Start = Callable[[str], Hook]


@pytest.fixture
def start() -> Iterator[Start]:
    """Makes hooks, and closes them."""
    hooks: list[Hook] = []

    def make(command: str) -> Hook:
        hooks.append(Hook(command))
        return hooks[-1]

    yield make
    for hook in hooks:
        hook.close()


def told(file: Path, count: int) -> list[str]:
    """What the command has written, once there are so many lines."""
    eventually(lambda: len(file.read_text().splitlines()) >= count)
    return file.read_text().splitlines()


def test_the_command_reads_each_endpoint_as_a_line(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "told"
    start(f"cat > {file}; echo end >> {file}").schedule(("10.0.0.1:80", "[::1]:80", "web.example:80"))
    assert told(file, 4) == ["10.0.0.1:80", "[::1]:80", "web.example:80", "end"]


def test_a_set_without_members_is_no_line_and_an_empty_variable(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "told"
    start(f"{TELL} {file}").schedule(())
    assert told(file, 1) == ["set 0 set 0 set 0 0"]


def test_more_endpoints_than_variables_hold_are_all_on_its_input(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "told"
    hook = start(f"{TELL} {file}")
    for count, endpoints in enumerate((MANY, MANY[1:], MANY[:2], MANY), 1):
        hook.schedule(endpoints)
        told(file, count)
    few = len(" ".join(MANY[:2]))
    assert told(file, 4) == [
        " 0  0 set 0 10000",
        f" 0 set 0 set {len(MANY[0])} 9999",
        f"set {few} set {len(MANY[0])}  0 2",
        " 0  0 set 0 10000",
    ]
    [warning] = eventually(lambda: caplog.records)
    assert warning.getMessage().startswith("zkdns: watch_command_variables_unset ")
    assert f"variables='{ADDED}, {ENDPOINTS}'" in warning.getMessage()


def test_a_variable_that_came_with_the_environment_is_not_taken_for_ours(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINTS, "10.9.9.9:1")
    file = tmp_path / "told"
    start(f"{TELL} {file}").schedule(MANY)
    assert told(file, 1) == [" 0  0 set 0 10000"]


def test_the_longest_string_that_the_kernel_takes_is_set(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "told"
    longest = 32 * resource.getpagesize() - len(f"{ENDPOINTS}=\0")  # MAX_ARG_STRLEN
    hook = start(f"{TELL} {file}")
    hook.schedule(("x" * longest,))
    told(file, 1)
    hook.schedule(("x" * (longest + 1),))
    assert [line.split(" ")[:3] for line in told(file, 2)] == [
        ["set", str(longest), "set"],
        ["", "0", "set"],  # that one's name is shorter, so that it still fits
    ]


def test_where_the_variables_are_too_much_together_none_is_set(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "told"
    fill_environment(monkeypatch, free=120_000)
    start(f"{TELL} {file}").schedule(MANY[:5000])
    assert told(file, 1) == [" 0  0  0 5000"]
    [warning] = eventually(lambda: caplog.records)
    assert f"variables='{ADDED}, {ENDPOINTS}, {REMOVED}'" in warning.getMessage()


def fill_environment(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Leave so many bytes of what the kernel gives to arguments and environment: a quarter of the stack."""
    stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
    most = 6 * 2**20  # 3/4 of the kernel's own limit of a stack
    room = most if stack == resource.RLIM_INFINITY else min(stack // 4, most)
    pointer = 8
    room -= free + sum(len(f"{name}={value}\0") + pointer for name, value in os.environ.items())
    while room > 100:
        name = f"FILLED_{room}"
        value = "x" * (min(room, 100_000) - len(f"{name}=\0") - pointer)
        monkeypatch.setenv(name, value)
        room -= len(f"{name}={value}\0") + pointer


@pytest.mark.parametrize("script", ["true", "head -n 1", "exec <&-; true"])
def test_a_command_that_does_not_read_its_input_is_no_failure(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, script: str
) -> None:
    file = tmp_path / "told"
    hook = start(f"{script} > /dev/null && echo done >> {file}")
    hook.schedule(MANY[:5000])
    told(file, 1)
    hook.schedule(MANY[:4999])
    assert told(file, 2) == ["done", "done"]
    assert caplog.records == []


def test_a_command_that_reads_nothing_and_stays_ends_when_it_is_told_to(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "told"
    hook = start(f"echo $$ >> {file}; exec sleep 60")
    hook.schedule(MANY)
    told(file, 1)
    hook.close()
    pid = file.read_text().strip()
    assert not Path(f"/proc/{pid}").exists()


def test_what_cannot_be_run_is_told_and_the_next_change_is_another_try(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "told"
    hook = start(f"cat >> {file}")
    fill_environment(monkeypatch, free=-200_000)
    hook.schedule(("10.0.0.1:80",))
    eventually(lambda: caplog.records)
    assert caplog.records[0].getMessage().startswith("zkdns: watch_command_start_failed ")
    assert "reason='Argument list too long'" in caplog.records[0].getMessage()
    monkeypatch.undo()
    hook.schedule(("10.0.0.2:80",))
    assert told(file, 1) == ["10.0.0.2:80"]
