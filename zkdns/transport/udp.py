"""UDP: datagrams in, datagrams out, from the event loop."""

from __future__ import annotations

import asyncio
import socket
import struct

from zkdns.transport import Respond
from zkdns.transport.sockets import IP_PKTINFO, IPV6_PKTINFO, IPV6_RECVPKTINFO, is_wildcard

# So many datagrams are answered before TCP, the feed and timers get their turn.
_BATCH = 64
_LARGEST = 65535
_ANCILLARY = socket.CMSG_SPACE(64)
_IN_PKTINFO = struct.Struct("=i4s4s")  # interface, local address, address in the header
_IN6_PKTINFO = struct.Struct("=16si")  # address, interface


class UdpServer:
    """Answers what arrives at one socket.

    On a wildcard socket the answer leaves from the address that was asked (IP_PKTINFO): left to itself the
    kernel chooses another one on hosts with several, and the asker drops the answer.
    """

    def __init__(self, sock: socket.socket, respond: Respond) -> None:
        self._sock = sock
        self._respond = respond
        self._reply = self._reply_plain
        if is_wildcard(sock):
            self._reply = self._reply_from_asked
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)

    def start(self) -> None:
        """Begin to answer in the running event loop."""
        asyncio.get_running_loop().add_reader(self._sock, self._readable)

    def stop(self) -> None:
        """Answer no more; the socket stays open, since others may hold it too."""
        asyncio.get_running_loop().remove_reader(self._sock)

    def _readable(self) -> None:
        for _ in range(_BATCH):
            try:
                self._reply()
            except BlockingIOError:
                return  # nothing more to read, or no room to send: UDP may lose an answer
            except OSError:
                continue  # an earlier answer came back undeliverable, or cannot be routed

    def _reply_plain(self) -> None:
        message, asker = self._sock.recvfrom(_LARGEST)
        response = self._respond(message, stream=False)
        if response is not None:
            self._sock.sendto(response, asker)

    def _reply_from_asked(self) -> None:
        message, ancillary, _, asker = self._sock.recvmsg(_LARGEST, _ANCILLARY)
        response = self._respond(message, stream=False)
        if response is not None:
            source = [item for item in map(_source_of, ancillary) if item]
            self._sock.sendmsg([response], source, 0, asker)


def _source_of(item: tuple[int, int, bytes]) -> tuple[int, int, bytes] | None:
    """What tells the kernel to send from where a datagram arrived; None: it says nothing of that."""
    level, kind, data = item
    if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
        _, local, _ = _IN_PKTINFO.unpack(data)
        # No interface: the route decides about that, or answers to other networks would not find their way.
        return level, kind, _IN_PKTINFO.pack(0, local, bytes(4))
    if (level, kind) == (socket.IPPROTO_IPV6, IPV6_PKTINFO):
        address, interface = _IN6_PKTINFO.unpack(data)
        is_link_local = address[:2] == b"\xfe\x80"  # such an address means nothing without its interface
        return level, kind, _IN6_PKTINFO.pack(address, interface if is_link_local else 0)
    return None
