"""Causes of failures as clauses."""

import errno
import socket
import ssl
from pathlib import Path

import pytest

from zkdns.causes import cause_of


def caught(function: object, *arguments: object) -> Exception:
    """The exception of a call."""
    assert callable(function)
    with pytest.raises(Exception) as error:  # noqa: PT011 - any
        function(*arguments)
    return error.value


def test_a_failed_request_of_the_system_has_its_reason() -> None:
    assert cause_of(OSError(errno.ECONNREFUSED, "Connection refused")) == "connection refused"
    assert cause_of(caught(Path("/nowhere/file").read_bytes)) == "no such file or directory"
    assert cause_of(OSError("AF_UNIX path too long")) == "AF_UNIX path too long"
    assert cause_of(OSError()) == "OSError"


def test_a_failed_name_lookup_has_its_reason() -> None:
    assert cause_of(caught(socket.getaddrinfo, "nosuchhost.invalid", 1)) == "no such host"
    later = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    assert cause_of(later) == "its host name cannot be resolved now (temporary failure in name resolution)"
    assert cause_of(caught(socket.getaddrinfo, "a" * 64, 1)).startswith("its host name cannot be resolved (")


def test_a_file_without_a_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no PEM\n")
    context = ssl.create_default_context()
    assert cause_of(caught(context.load_cert_chain, tmp_path / "text")) == "it has no PEM data of this kind"
    unusable = caught(context.load_verify_locations, tmp_path / "text")
    assert cause_of(unusable) == "no certificate or crl found"
    assert cause_of(caught(context.load_cert_chain, tmp_path / "none")) == "no such file or directory"
