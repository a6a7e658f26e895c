"""Delivers signals to a program with a main thread that waits for a queue.

Python runs a signal handler when the main thread next executes Python code. A signal that arrives just before
the main thread blocks, or in another thread, does not interrupt that wait, so its handler could be delayed
without limit. But the interpreter writes the signal's number to a file descriptor at once, in any thread
(signal.set_wakeup_fd). A thread reads that descriptor.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection


def queue_signals(
    numbers: Collection[int], on_signal: Callable[[signal.Signals], None], *, once: Collection[int] = ()
) -> None:
    """Call a function for each of these signals, until the process exits.

    Args:
        numbers: the signals.
        on_signal: called with each signal, in a thread of its own.
        once: a subset of the signals. After the first signal of this subset, all of them get their default
            action back, so that a second one terminates the process.
    """

    def handler(number: int, _frame: object) -> None:
        if number in once:
            for each in once:
                signal.signal(each, signal.SIG_DFL)

    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # required by set_wakeup_fd
    threading.Thread(target=_deliver, args=(reader, frozenset(numbers), on_signal), daemon=True).start()
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, handler)


def _deliver(reader: int, numbers: Collection[int], on_signal: Callable[[signal.Signals], None]) -> None:
    while data := os.read(reader, 64):
        for number in data:
            if number in numbers:
                on_signal(signal.Signals(number))
