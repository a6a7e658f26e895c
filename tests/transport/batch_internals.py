"""The memory layout of the batch calls.

The C headers of the system define it, and the module has no public function for it. If a size or an offset is
wrong, the kernel uses other memory, which may have no visible effect on the machine of the test.
"""

import ctypes
import socket

from zkdns.transport import batch


def headers_with_formats() -> dict[type[ctypes.Structure], dict[str, str]]:
    """The structures of the message headers, each with its fields and their `struct` formats in C."""
    return {
        batch._IoVec: {"base": "P", "length": "N"},
        batch._MsgHdr: {
            "name": "P",
            "name_length": "I",
            "iov": "P",
            "iov_count": "N",
            "control": "P",
            "control_length": "N",
            "flags": "i",
        },
        batch._MmsgHdr: {"header": "56s", "length": "I"},
    }


def sockaddr_size(family: socket.AddressFamily) -> int:
    """The bytes that a batch reserves for the socket address of a datagram."""
    return batch._SOCKADDR_SIZE[family]


def control_size(family: socket.AddressFamily) -> int:
    """The bytes that a batch reserves for the ancillary data of a datagram."""
    return batch._CONTROL_SIZE[family]
