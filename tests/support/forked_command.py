"""Runs `zkdns` commands in forks of a process that has loaded Python and all commands.

Starting Python and importing a command takes ten times longer than most commands need. A fork is a process
of its own that runs the real command: it parses its arguments, writes to its file descriptors, and exits as
usual.

A fork does not show that a command imports all that it needs, nor what Python does at its start. Tests of
that start Python, and `tests/cli/test_output_failures.py` starts it for every command.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import io
import os
import runpy
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from tests.support.process_guard import kill_guarded, start_guarded

SCRIPT = Path(sys.executable).with_name("zkdns")
"""The script `zkdns`, which a user has on the PATH."""

_MAX_REQUEST = 1 << 18  # bytes, more than a socket sends as one message
_PR_SET_PDEATHSIG = 1
_READ_AT_THE_START = ("PYTHON", "LC_", "LANG")  # variables of the interpreter, which a fork does not start
_APPLIED = frozenset({"PYTHONUNBUFFERED"})


class Ended(NamedTuple):
    """The result of a command."""

    status: int
    output: str
    errors: str


class _Request(msgspec.Struct):
    """What differs between runs. The file descriptors of the standard streams are sent with it."""

    arguments: list[str]
    environment: dict[str, str]
    directory: str
    is_script: bool


def run_forked(
    *arguments: str,
    environment: Mapping[str, str],
    is_script: bool = False,
    output: int | None = None,
    errors: int | None = None,
    timeout: float = 30.0,
) -> Ended:
    """Run a command to its end.

    Args:
        arguments: of `zkdns`.
        environment: all its variables.
        is_script: run the script `zkdns` instead of `python -m zkdns`.
        output: its standard output; by default a file, whose text is returned.
        errors: its standard error, as `output`.
        timeout: seconds, after which it is killed.

    Raises:
        TimeoutError: it did not end in time.
    """
    request = _Request([*arguments], {**environment}, str(Path.cwd()), is_script)
    with (
        Path(os.devnull).open("rb") as empty,
        tempfile.TemporaryFile() as written,
        tempfile.TemporaryFile() as complaints,
    ):
        streams = [
            empty.fileno(),
            written.fileno() if output is None else output,
            complaints.fileno() if errors is None else errors,
        ]
        status = _template().run(request, streams, timeout)
        return Ended(status, _text(written), _text(complaints))


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode()


class _Template:
    """The process that forks. It runs one command at a time, and ends with this process."""

    def __init__(self) -> None:
        self._environment = dict(os.environ)
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            number = theirs.fileno()
            self._process = start_guarded(
                [sys.executable, "-m", "tests.support.forked_command", str(number)], pass_fds=[number]
            )

    def run(self, request: _Request, streams: list[int], timeout: float) -> int:
        """Run a command with these standard streams, and return its exit status."""
        self._check(request.environment)
        socket.send_fds(self._socket, [msgspec.json.encode(request)], streams)
        self._socket.settimeout(None)
        pid = int(self._received())
        self._socket.settimeout(timeout)
        try:
            return int(self._received())
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            self._socket.settimeout(None)
            self._received()
            raise

    def close(self) -> None:
        self._socket.close()
        kill_guarded(self._process)

    def _received(self) -> bytes:
        message = self._socket.recv(_MAX_REQUEST)
        assert message, "the process that forks has ended"
        return message

    def _check(self, environment: dict[str, str]) -> None:
        differing = {
            name
            for name in {*environment, *self._environment} - _APPLIED
            if name.startswith(_READ_AT_THE_START) and environment.get(name) != self._environment.get(name)
        }
        assert not differing, f"a fork does not apply {differing}"


@functools.cache
def _template() -> _Template:
    template = _Template()
    atexit.register(template.close)
    return template


# -- the process that forks ---------------------------------------------------------------------------------


def _main(requests: socket.socket) -> None:
    """Fork for each request, until the socket is closed."""
    prctl = ctypes.CDLL(None).prctl
    end = _End()
    atexit.register(end.skip_the_rest)  # the first one registered runs last
    _load_commands()
    gc.freeze()  # collections in forks would copy the memory of all objects
    while True:
        message, streams, _, _ = socket.recv_fds(requests, _MAX_REQUEST, 3)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            requests.close()
            request = msgspec.json.decode(message, type=_Request)
            _replace_streams(streams, is_buffered=not request.environment.get("PYTHONUNBUFFERED"))
            with end.recorded():
                _run(request)
            return
        for stream in streams:
            os.close(stream)
        requests.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        requests.send(str(os.waitstatus_to_exitcode(status)).encode())


class _End:
    """Ends a fork without freeing its memory, which would take longer than most commands."""

    def __init__(self) -> None:
        self._status: int | None = None

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Record the status of `sys.exit` within the context."""
        try:
            yield
        except SystemExit as ended:
            code = 0 if ended.code is None else ended.code
            self._status = code if isinstance(code, int) else None  # Python prints a text
            raise

    def skip_the_rest(self) -> None:
        """Exit, after all other functions of atexit. If a stream fails, Python reports that and exits."""
        if self._status is None:
            return
        with contextlib.suppress(OSError, ValueError):
            for stream in filter(None, (sys.stdout, sys.stderr)):
                stream.flush()
            os._exit(self._status)


def _load_commands() -> None:
    from zkdns.cli import main  # noqa: PLC0415 - only this process needs them

    context = main.make_context("zkdns", ["x"])
    for name in main.list_commands(context):
        main.get_command(context, name)


def _replace_streams(streams: list[int], *, is_buffered: bool) -> None:
    """Create the standard streams as Python does at its start."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - open until the end, as in Python
    for number, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
        file = open(number, "wb", buffering=-1 if is_buffered else 0, closefd=False)  # noqa: SIM115
        is_line_buffered = name == "stderr" or os.isatty(number)
        stream_of = io.TextIOWrapper(
            file,
            encoding=getattr(sys, name).encoding,
            errors=errors,
            line_buffering=is_line_buffered,
            write_through=not is_buffered,
        )
        setattr(sys, name, stream_of)
        setattr(sys, f"__{name}__", stream_of)


def _run(request: _Request) -> None:
    """Run the command in a session of its own."""
    os.setsid()
    os.chdir(request.directory)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.argv[1:] = request.arguments
    if request.is_script:
        sys.argv[0] = str(SCRIPT)
        runpy.run_path(str(SCRIPT), run_name="__main__")
    else:
        runpy.run_module("zkdns", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main(socket.socket(fileno=int(sys.argv[1])))
