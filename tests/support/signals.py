"""Programs started by tests receive all signals, even signals that the caller of pytest ignores."""

import os
import signal

# Python ignores these, and subprocess restores them in child processes.
_IGNORED_BY_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}


def reset_ignored_signals() -> None:
    """Prevent child processes from inheriting ignored signals.

    `nohup` ignores SIGHUP, and a shell without job control ignores SIGINT and SIGQUIT in its background jobs.
    Child processes inherit SIG_IGN, and a shell cannot reset it. Other handlers are reset to the default by
    execve(2). Therefore ignored signals get a handler that does nothing, and this process still ignores them.
    """
    for number in signal.valid_signals() - _IGNORED_BY_PYTHON:
        # A worker of pytest-xdist must survive SIGHUP like the process that started it, which may run under
        # nohup.
        is_hangup_of_worker = number == signal.SIGHUP and "PYTEST_XDIST_WORKER" in os.environ
        if signal.getsignal(number) is signal.SIG_IGN or is_hangup_of_worker:
            signal.signal(number, _do_nothing)


def _do_nothing(number: int, frame: object) -> None:
    pass
