"""The socket that a service listens at: bound, and at the end closed such that no connection is reset."""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from contextlib import suppress

from convnext.errors import ConvNextError

SO_ATTACH_FILTER = 26  # of Linux; Python's socket module has no name for it
# A classic BPF program, as (operation, jump if true, jump if false, operand): drops a packet that asks for a new
# connection (SYN without ACK in the flags, byte 13 of TCP's header) and lets all others pass.
NO_SYN = [(0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF)]


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address that is free; it does not listen yet.

    Raises:
        ConvNextError: the address is in use, or is none of this machine's.
    """
    bound = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        if bound:
            bound.close()
        raise ConvNextError(
            f"Cannot listen at {host} port {port}: {error.strerror or error}. Give another --port (0: any that is free)."
        ) from None
    bound.set_inheritable(True)
    return bound


def url_of(bound: socket.socket) -> str:
    """The address of a bound socket for people."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def turn_away(listening: socket.socket) -> None:
    """Let no new client begin to connect; connections that have begun are still made.

    Who comes now asks again, a second later, and is told that nobody listens once the socket is closed. Without it a
    connection that the kernel makes just before the close, which is never accepted, would be reset with its request.
    """
    if sys.platform == "linux":
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in NO_SYN))
        with suppress(OSError):
            pointer = struct.pack("HP", len(NO_SYN), ctypes.addressof(program))
            listening.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, pointer)
            return
    listening.listen(0)  # the best there is elsewhere: the kernel makes one connection more


def waiting(listening: socket.socket) -> list[socket.socket]:
    """The connections that wait to be accepted."""
    found = []
    with suppress(OSError):
        listening.setblocking(False)
        while True:
            found.append(listening.accept()[0])
    return found
