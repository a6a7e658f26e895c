"""A thread that works while a context is open."""

import threading
from abc import ABC, abstractmethod
from typing import Self


class Background(ABC):
    """Runs `_run` in a thread while the context is open.

    Args:
        name: the name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._has_ended.set()
        self._thread.join()

    @abstractmethod
    def _run(self) -> None:
        """Work until `_has_ended` is set."""
