"""Changes to kazoo's private parts, as another version could have them. They need private attributes.

Each one affects only requests and code of zkdns: kazoo's public API works as before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.protocol.connection import ConnectionHandler

_call = KazooClient._call
_read_socket = ConnectionHandler._read_socket


def _is_ours(request: object) -> bool:
    return type(request).__module__.startswith("zkdns.")


def _is_called_by_zkdns() -> bool:
    return str(sys._getframe(2).f_globals["__name__"]).startswith("zkdns.")


def _with_call(change: Callable[[Any, Any], tuple[Any, Any] | None]) -> Callable[[pytest.MonkeyPatch], None]:
    """Change zkdns's requests and results before kazoo gets them. None: they are not sent."""

    def call(self: Any, request: Any, async_object: Any) -> object:
        if _is_ours(request):
            if (changed := change(request, async_object)) is None:
                return None
            request, async_object = changed
        return _call(self, request, async_object)

    return lambda monkeypatch: monkeypatch.setattr(KazooClient, "_call", call)


def _hide(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Hide an attribute of the client from zkdns."""

    def read(self: Any) -> Any:
        if _is_called_by_zkdns():
            raise AttributeError(name)
        return self.__dict__[name]

    def write(self: Any, value: object) -> None:
        self.__dict__[name] = value

    return lambda monkeypatch: monkeypatch.setattr(KazooClient, name, property(read, write), raising=False)


def _rename_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(self: Any, name: str) -> Any:
        if name == "_call" and _is_called_by_zkdns():
            raise AttributeError(name)
        return object.__getattribute__(self, name)

    monkeypatch.setattr(KazooClient, "__getattribute__", find, raising=False)


def _add_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(self: Any, request: Any, async_object: Any, *deadline: float) -> object:
        if _is_ours(request) and not deadline:
            raise TypeError("missing 1 required positional argument: 'deadline'")
        return _call(self, request, async_object)

    monkeypatch.setattr(KazooClient, "_call", call)


def _late_zxid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        KazooClient,
        "last_zxid",
        property(
            lambda self: 0 if _is_called_by_zkdns() else self.__dict__["last_zxid"],
            lambda self, value: self.__dict__.__setitem__("last_zxid", value),
        ),
        raising=False,
    )


def _ignore_override(monkeypatch: pytest.MonkeyPatch) -> None:
    """The method for events has another name, so that nothing calls the one of the instance."""

    def read_socket(self: Any, read_timeout: float) -> object:
        self.__dict__.pop("_read_watch_event", None)
        return _read_socket(self, read_timeout)

    monkeypatch.setattr(ConnectionHandler, "_read_socket", read_socket)


def _pass_header(monkeypatch: pytest.MonkeyPatch) -> None:
    """The method for events has one more argument."""

    def read_socket(self: Any, read_timeout: float) -> object:
        ours = self.__dict__.get("_read_watch_event")
        if ours is not None and "passes_header" not in self.__dict__:
            self.passes_header = True
            self._read_watch_event = lambda buffer, offset: ours("header", buffer, offset)
        return _read_socket(self, read_timeout)

    monkeypatch.setattr(ConnectionHandler, "_read_socket", read_socket)


def _shift_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The method for events gets the message without the header of the response."""

    def read_socket(self: Any, read_timeout: float) -> object:
        ours = self.__dict__.get("_read_watch_event")
        if ours is not None and "shifts_buffer" not in self.__dict__:
            self.shifts_buffer = True
            self._read_watch_event = lambda buffer, offset: ours(buffer[offset:], offset)
        return _read_socket(self, read_timeout)

    monkeypatch.setattr(ConnectionHandler, "_read_socket", read_socket)


CHANGES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "_call has another name": _rename_call,
    "_call has one more parameter": _add_parameter,
    "_call loses requests": _with_call(lambda _request, _result: None),
    "requests have no type": _with_call(
        lambda request, result: (SimpleNamespace(serialize=request.serialize), result)
    ),
    "requests are encoded by another method": _with_call(
        lambda request, result: (SimpleNamespace(type=request.type), result)
    ),
    "requests are encoded with a wrong path": _with_call(
        lambda request, result: (
            SimpleNamespace(
                type=request.type,
                serialize=lambda: request.serialize().replace(b"/", b"."),
                deserialize=request.deserialize,
            ),
            result,
        )
    ),
    "responses are decoded without an offset": _with_call(
        lambda request, result: (
            SimpleNamespace(
                type=request.type,
                serialize=request.serialize,
                deserialize=lambda data, _: request.deserialize(data),
            ),
            result,
        )
    ),
    "results are set by another method": _with_call(
        lambda request, result: (
            request,
            SimpleNamespace(set=lambda value: result.set_result(value), set_exception=result.set_exception),  # noqa: PLW0108 - it fails when kazoo calls it
        )
    ),
    "errors are set by another method": _with_call(
        lambda request, result: (
            request,
            SimpleNamespace(set=result.set, set_exception=lambda error: result.set_error(error)),  # noqa: PLW0108 - it fails when kazoo calls it
        )
    ),
    "results are lost": _with_call(lambda request, _result: (request, None)),
    "_connection has another name": _hide("_connection"),
    "last_zxid is set later": _late_zxid,
    "_read_watch_event has another name": _ignore_override,
    "_read_watch_event has one more parameter": _pass_header,
    "_read_watch_event has another buffer": _shift_buffer,
}
"""By description: applies the change."""
