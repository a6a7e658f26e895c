"""Programs that a test starts receive every signal, whatever the caller of the tests ignores."""

import os
import signal

# Python ignores these, and subprocess restores them in what it starts.
_IGNORED_BY_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}


def reset_ignored_signals() -> None:
    """Let no program that this process starts from now on inherit an ignored signal.

    `nohup` ignores SIGHUP, and a shell without job control ignores SIGINT and SIGQUIT in its background jobs.
    Programs inherit that, and a shell cannot even undo it. A handler, other than SIG_IGN, is reset to the
    default by execve(2). So this process gets handlers that do nothing, and goes on in spite of the signals.
    """
    for number in signal.valid_signals() - _IGNORED_BY_PYTHON:
        # A worker of pytest-xdist ends with the process that started it, which nohup may protect.
        is_worker_hangup = number == signal.SIGHUP and "PYTEST_XDIST_WORKER" in os.environ
        if signal.getsignal(number) is signal.SIG_IGN or is_worker_hangup:
            signal.signal(number, _do_nothing)


def _do_nothing(number: int, frame: object) -> None:
    pass
