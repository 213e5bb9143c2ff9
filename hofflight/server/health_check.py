"""Asks a server whether it takes requests: what probes ask, without a token."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hofflight.errors import SettingsError

_SCHEMES = {"grpc": "", "grpc+tls": "", "grpc+unix": "unix:"}


def ask_health(url: str, ca: bytes | None, timeout_s: float) -> str:
    """`SERVING`, `NOT_SERVING`, or why there is no answer: `UNAVAILABLE`, `DEADLINE_EXCEEDED`, ...

    url: grpc://HOST:PORT, grpc+tls://HOST:PORT or grpc+unix:///PATH. ca: whom TLS trusts beside the
    system. Raises: SettingsError (HOF-601).
    """
    scheme, mark, address = url.partition("://")
    if not mark or scheme not in _SCHEMES or not address:
        msg = f"--url {url!r} is no address of a server"
        raise SettingsError(msg, hint="grpc://HOST:PORT, grpc+tls://..., or grpc+unix:///PATH")
    target = f"{_SCHEMES[scheme]}{address}"
    credentials = grpc.ssl_channel_credentials(ca) if scheme == "grpc+tls" else None
    channel = (
        grpc.insecure_channel(target)
        if credentials is None
        else grpc.secure_channel(target, credentials)
    )
    with channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            found = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(found.status))
