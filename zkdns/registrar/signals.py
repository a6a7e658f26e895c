"""Signals to a program whose main thread takes news from a queue.

Python runs a handler when the main thread next executes Python. A signal that comes just before that thread
waits for a lock, or to another thread, ends no waiting: it is noticed with the next news, which may never
come. What the interpreter does at once, in whichever thread, is to write the signal's number to a file
(signal.set_wakeup_fd); so a thread reads that.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection


def queue_signals(
    numbers: Collection[int], tell: Callable[[signal.Signals], None], *, once: Collection[int] = ()
) -> None:
    """Have it told when one of these comes; for good, and for the one program that this process is.

    Args:
        numbers: the signals.
        tell: called with each as it comes, in a thread of its own.
        once: those of them that are told together once: the second ends the program, as it would have without
            us.
    """

    def take(number: int, _frame: object) -> None:
        if number in once:
            for each in once:
                signal.signal(each, signal.SIG_DFL)

    told, telling = os.pipe()
    os.set_blocking(telling, False)  # as set_wakeup_fd wants it
    threading.Thread(target=_pass_on, args=(told, frozenset(numbers), tell), daemon=True).start()
    signal.set_wakeup_fd(telling, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, take)


def _pass_on(told: int, numbers: Collection[int], tell: Callable[[signal.Signals], None]) -> None:
    while read := os.read(told, 64):
        for number in read:
            if number in numbers:
                tell(signal.Signals(number))
