import contextlib
import socket

import pytest

from hofflight.server.hangup import hang_up


@contextlib.contextmanager
def connection(family, listen_at, connect_to):
    with socket.create_server(
        (listen_at, 0), family=family, dualstack_ipv6=listen_at == "::"
    ) as at:
        client = socket.create_connection((connect_to, at.getsockname()[1]), timeout=5)
        accepted, _ = at.accept()
        with client, accepted:
            yield client


@pytest.mark.parametrize(
    ("family", "listen_at", "connect_to"),
    [(socket.AF_INET, "127.0.0.1", "127.0.0.1"), (socket.AF_INET6, "::", "127.0.0.1")],
)
def test_the_peer_named_by_grpc_finds_its_connection_closed(family, listen_at, connect_to):
    with (
        connection(family, listen_at, connect_to) as client,
        connection(family, listen_at, connect_to) as other,
    ):
        host, port = client.getsockname()[:2]

        assert hang_up(f"ipv4:{host}:{port}")
        assert client.recv(1) == b""
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(1)


@pytest.mark.parametrize(
    "peer", ["unix:", "unix:/run/x", "ipv4:127.0.0.1:1", "ipv6:%5B::1%5D:1", ""]
)
def test_a_peer_that_is_not_connected_here_is_left_alone(peer):
    assert not hang_up(peer)
