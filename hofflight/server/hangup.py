"""Closes the connection of a client that cannot be told anything any more."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from urllib.parse import unquote


def hang_up(peer: str) -> bool:
    """Shut down the TCP connection of a gRPC peer such as `ipv4:127.0.0.1:51234`; Linux only.

    gRPC has no way to end one call whose client does not read: a status waits behind what was
    written, and the memory stays. So the socket is looked up among our own and shut down, which
    ends the connection's other streams too: they are the same client's. A Unix socket's peer has
    no name, so it is left alone; whoever may open it is trusted. Returns: whether one was found.
    """
    family, _, address = unquote(peer).partition(":")
    host, _, port = address.rpartition(":")
    if family not in {"ipv4", "ipv6"} or not port.isdigit():
        return False
    wanted = (host.strip("[]"), int(port))
    mapped = (f"::ffff:{host}", int(port))  # IPv4 at a socket that listens to both
    found = False
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # gone by now, or not connected
            if path.is_socket():
                found |= _shut(int(path.name), {wanted, mapped})
    return found


def _shut(number: int, peers: set[tuple[str, int]]) -> bool:
    with socket.socket(fileno=os.dup(number)) as ours:
        if ours.family == socket.AF_UNIX or ours.getpeername()[:2] not in peers:
            return False
        ours.shutdown(socket.SHUT_RDWR)
    return True
