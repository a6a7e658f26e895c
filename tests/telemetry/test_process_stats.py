"""The resources of a process, compared with what Python knows about this one."""

import os
import resource
import time
from pathlib import Path

from zkdns.telemetry.process_stats import read_process_stats

_MIB = 1 << 20


def test_processor_time_grows_with_work() -> None:
    before = read_process_stats(os.getpid())
    started_at = time.process_time()
    while time.process_time() - started_at < 0.1:
        pass
    after = read_process_stats(os.getpid())
    assert before is not None
    assert after is not None
    own = resource.getrusage(resource.RUSAGE_SELF)
    assert after.cpu_seconds - before.cpu_seconds > 0.05
    assert abs(after.cpu_seconds - own.ru_utime - own.ru_stime) < 0.1


def test_open_files_and_memory_are_counted() -> None:
    before = read_process_stats(os.getpid())
    memory = bytearray(os.urandom(1 << 16) * 512)  # 32 MiB, all of it in use
    with Path(os.devnull).open("rb"), Path(os.devnull).open("rb"):
        after = read_process_stats(os.getpid())
    assert before is not None
    assert after is not None
    assert after.open_files == before.open_files + 2
    assert after.resident_bytes - before.resident_bytes > 16 * _MIB
    assert memory


def test_the_name_of_a_program_may_have_parentheses(tmp_path: Path) -> None:
    (tmp_path / "7" / "fd").mkdir(parents=True)
    fields = " ".join(map(str, range(1, 50)))
    (tmp_path / "7" / "stat").write_text(f"7 (a) b) S {fields}")
    stats = read_process_stats(7, tmp_path)
    assert stats is not None
    assert stats.cpu_seconds == (11 + 12) / os.sysconf("SC_CLK_TCK")
    assert stats.resident_bytes == 21 * os.sysconf("SC_PAGE_SIZE")


def test_a_process_that_has_ended_has_none(tmp_path: Path) -> None:
    assert read_process_stats(7, tmp_path) is None
